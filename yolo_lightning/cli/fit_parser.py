"""The parser of ``fit``, ``validate``, ``test`` and ``predict``."""

from __future__ import annotations

import difflib
import re
import sys
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser


class FitParser(LightningArgumentParser):
    """Takes options by their whole names, and answers wrong ones with one sentence."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)  # a misspelt option must not set another

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong, with the nearest option if one was misspelt, and exit with status 2."""
        sentence = " ".join(str(message).split())
        for name in re.findall(r"--([\w.]+)", sentence) if "nrecognized" in sentence else []:
            known = [option[2:] for option in self._option_string_actions if option.startswith("--")]
            if near := difflib.get_close_matches(name, known, n=1):
                sentence += f"; did you mean --{near[0]}?"
        command = self.prog.replace(" [options]", "")
        print(f"error: {sentence} (see {command} --help)", file=sys.stderr)
        sys.exit(2)
