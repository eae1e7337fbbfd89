"""The options of commands that are not Lightning's: how they are read, and what several have alike."""

from __future__ import annotations

import argparse
from typing import NoReturn

from ..errors import InputError

RUN_HELP = "directory of a run, or its name: 'fit' is the newest version in runs/fit"
RUNS_DIR_HELP = "folder of all runs (default: runs)"


class Parser(argparse.ArgumentParser):
    """Takes options by their whole names, and answers wrong ones with one sentence."""

    def __init__(self, command: str, arguments: str, description: str, epilog: str | None = None) -> None:
        """Make the parser of one command.

        Args:
            command: its name, such as ``report``.
            arguments: those of the usage.
            description: what it does, in lines that stay as they are.
            epilog: stands after the options.
        """
        program = f"yolo-lightning {command}"
        super().__init__(
            prog=program, usage=f"{program} {arguments}", description=description, epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        )  # fmt: skip

    def error(self, message: str) -> NoReturn:
        """Say what is wrong."""
        raise InputError(f"{message} (see {self.prog} --help)")
