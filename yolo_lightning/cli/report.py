"""``yolo-lightning report RUN`` and ``yolo-lightning compare RUN1 RUN2 …``."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..monitoring.report.compare import as_text, compare_runs
from ..monitoring.report.page import comparison_page, write_report
from ..monitoring.report.read import find_run, read_run
from ..system.files import write_whole
from .command_parser import RUN_HELP, RUNS_DIR_HELP, CommandParser

_REPORT = """Writes RUN/report.html from the files in the run directory, and prints its path. The page
shows metrics, curves, pictures, where the time went, the hardware, and commands to continue from the run. It
is one file that needs no network. Each fit writes it when it ends."""
_COMPARE = """Prints runs side by side: the options that differ, the metrics of their best epochs, and
their speed. A star marks the best run of a line. With --output, an HTML page in one file shows the same and
the curves of the runs laid over each other. The page needs no network."""


def run_report(argv: list[str]) -> None:
    """Write the report of a run with the arguments of a command line, and print its path.

    Raises:
        InputError: there is no such run, or the report cannot be written.
    """
    parser = CommandParser("report", "[--runs_dir DIR] RUN", _REPORT)
    parser.add_argument("run", metavar="RUN", help=RUN_HELP)
    parser.add_argument("--runs_dir", default="runs", metavar="DIR", help=RUNS_DIR_HELP)
    options = parser.parse_args(argv)
    directory = find_run(options.run, options.runs_dir)
    try:
        print(write_report(directory))
    except OSError as error:
        raise InputError(f"{directory}: the report cannot be written ({error.strerror})") from None


def run_compare(argv: list[str]) -> None:
    """Print runs side by side, and with ``--output`` write an HTML page, by the arguments of a command line.

    Raises:
        InputError: there are fewer than two runs, one does not exist, or the page cannot be written.
    """
    parser = CommandParser("compare", "[--output PAGE.html] [--runs_dir DIR] RUN1 RUN2 …", _COMPARE)
    parser.add_argument("runs", nargs="+", metavar="RUN", help=RUN_HELP)
    parser.add_argument("--output", metavar="PAGE.html", help="HTML page to write as well")
    parser.add_argument("--runs_dir", default="runs", metavar="DIR", help=RUNS_DIR_HELP)
    options = parser.parse_intermixed_args(argv)
    if len(options.runs) < 2:
        raise InputError(f"compare was given {len(options.runs)} run; give two or more")
    runs = [read_run(find_run(run, options.runs_dir)) for run in options.runs]
    print(as_text(compare_runs(runs)))
    for run in runs:
        for name in run.unreadable:
            print(f"{run.directory / name}: skipped, because it cannot be read")
    if options.output is not None:
        path = Path(options.output).expanduser()
        try:
            write_whole(path, comparison_page(runs))
        except OSError as error:
            raise InputError(f"--output {options.output}: cannot be written ({error.strerror})") from None
        print(f"\n{path}")
