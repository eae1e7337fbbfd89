"""How the command line answers wrong options, and what of Lightning's talk it lets through."""

from __future__ import annotations

import difflib
import logging
import re
import sys
import warnings
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser


class Parser(LightningArgumentParser):
    """A parser that takes options by their whole names, and answers wrong ones with one sentence."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)  # a misspelt option must not set another

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong, with the nearest option where one was misspelt, and exit with status 2."""
        sentence = " ".join(str(message).split())
        for name in re.findall(r"--([\w.]+)", sentence) if "nrecognized" in sentence else []:
            known = [option[2:] for option in self._option_string_actions if option.startswith("--")]
            if near := difflib.get_close_matches(name, known, n=1):
                sentence += f"; did you mean --{near[0]}?"
        print(f"error: {sentence} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)


def quieten() -> None:
    """Hold back what Lightning says that is advertising, or wrong for how we use it."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).addFilter(
            lambda record: not str(record.msg).startswith(("💡", "TPU available", "Seed set"))
        )
    for message in (
        ".*smaller than the logging interval.*",  # nothing is logged by the step
        ".*isinstance.treespec, LeafSpec.*",
        ".*does not have many workers.*",  # workers follow the cores
        ".*checkpoint directory .* exists and is not empty.*",  # a run that resumes
        ".*callbacks used to create the checkpoint need to be provided.*",  # evaluation needs none of fit's
        ".*sync_dist=True.*",  # what is logged is the same on all ranks, or is reduced already
    ):
        warnings.filterwarnings("ignore", message=message)
