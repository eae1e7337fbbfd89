"""The parsers: of Lightning's subcommands, and of our own commands."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from ..errors import InputError

SUBCOMMANDS = {
    "fit": "Train a model, and write checkpoints, metrics and a report to a run directory.",
    "validate": "Evaluate a checkpoint on the validation split.",
    "test": "Evaluate a checkpoint on the test split.",
    "predict": "Detect objects in images, and write predictions.json and annotated pictures.",
}
"""Lightning's subcommands and their descriptions."""
RUN_HELP = "directory of a run, or its name: 'fit' is the newest version in runs/fit"
RUNS_DIR_HELP = "folder of all runs (default: runs)"


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


class CommandParser(argparse.ArgumentParser):
    """Takes options by their whole names, and answers wrong ones with one sentence.

    Args:
        arguments: usage, after the name of the command.
        description: its lines are printed as they are.
    """

    def __init__(self, command: str, arguments: str, description: str, epilog: str | None = None) -> None:
        program = f"yolo-lightning {command}"
        super().__init__(
            prog=program, usage=f"{program} {arguments}", description=description, epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        )  # fmt: skip

    def error(self, message: str) -> NoReturn:
        """Raise an InputError that says what is wrong."""
        raise InputError(f"{message} (see {self.prog} --help)")
