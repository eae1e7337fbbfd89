"""The parser of the commands that are not Lightning's."""

from __future__ import annotations

import argparse
from typing import NoReturn

from ..errors import InputError

RUN_HELP = "directory of a run, or its name: 'fit' is the newest version in runs/fit"
RUNS_DIR_HELP = "folder of all runs (default: runs)"


class CommandParser(argparse.ArgumentParser):
    """Takes options by their whole names, and answers wrong ones with one sentence.

    Args:
        command: name, such as ``report``.
        arguments: usage, after the name of the command.
        description: what the command does; its lines are printed as they are.
        epilog: text after the options.
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
