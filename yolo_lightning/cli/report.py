"""``yolo-lightning report RUN``: makes the report of a run again."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..monitoring.report.page import write_report
from ..monitoring.report.read import find_run
from .command_parser import RUN_HELP, RUNS_DIR_HELP, Parser

_DESCRIPTION = """Makes RUN/report.html out of the files in the run directory, and prints its path: what
came out, curves, pictures, where the time went, the hardware, and the commands that go on from there. The
page is one file that needs no network. A fit makes it by itself when it ends."""


def report(run: str, runs_dir: str = "runs") -> Path:
    """Make the report of a run again, and print its path.

    Args:
        run: directory of a run, or its name: the newest version of ``runs_dir/run``.
        runs_dir: folder of all runs.

    Raises:
        InputError: there is no such run, or the report cannot be written.
    """
    directory = find_run(run, runs_dir)
    try:
        path = write_report(directory)
    except OSError as error:
        raise InputError(f"{directory}: the report cannot be written ({error.strerror})") from None
    print(path)
    return path


def run_report(argv: list[str]) -> None:
    """:func:`report` with the arguments of a command line.

    Raises:
        InputError: an argument is wrong, or there is no such run.
        SystemExit: ``--help``.
    """
    parser = Parser("report", "[--runs_dir DIR] RUN", _DESCRIPTION)
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    parser.add_argument("--runs_dir", default="runs", metavar="DIR", help=RUNS_DIR_HELP)
    options = parser.parse_args(argv)
    report(options.run, options.runs_dir)
