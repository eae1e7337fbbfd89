"""``yolo-lightning report RUN``: writes the report of a run again."""

from __future__ import annotations

from ..errors import InputError
from ..monitoring.report.page import write_report
from ..monitoring.report.read import find_run
from .command_parser import RUN_HELP, RUNS_DIR_HELP, CommandParser

_DESCRIPTION = """Writes RUN/report.html from the files in the run directory, and prints its path. The page
shows metrics, curves, pictures, where the time went, the hardware, and commands to continue from the run. It
is one file that needs no network. Each fit writes it when it ends."""


def run_report(argv: list[str]) -> None:
    """Write the report of a run with the arguments of a command line, and print its path.

    Raises:
        InputError: there is no such run, or the report cannot be written.
    """
    parser = CommandParser("report", "[--runs_dir DIR] RUN", _DESCRIPTION)
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    parser.add_argument("--runs_dir", default="runs", metavar="DIR", help=RUNS_DIR_HELP)
    options = parser.parse_args(argv)
    directory = find_run(options.run, options.runs_dir)
    try:
        print(write_report(directory))
    except OSError as error:
        raise InputError(f"{directory}: the report cannot be written ({error.strerror})") from None
