"""``yolo-lightning compare RUN1 RUN2 …``: runs side by side."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..monitoring.report.compare import as_text, compare_runs
from ..monitoring.report.page import comparison_page
from ..monitoring.report.read import find_run, read_run
from ..system.files import write_whole
from .command_parser import RUN_HELP, RUNS_DIR_HELP, CommandParser

_DESCRIPTION = """Prints runs side by side: the options that differ, the metrics of their best epochs, and
their speed. A star marks the best run of a line. With --output, an HTML page in one file shows the same and
the curves of the runs laid over each other. The page needs no network."""


def compare(runs: list[str], output: str | None = None, runs_dir: str = "runs") -> None:
    """Print runs side by side: their options that differ, their metrics and speed.

    Args:
        runs: two or more run directories, or names: the newest version of ``runs_dir/name``.
        output: an HTML file to write as well, with the curves of the runs laid over each other.
        runs_dir: folder of all runs.

    Raises:
        InputError: there are fewer than two runs, one does not exist, or the page cannot be written.
    """
    if len(runs) < 2:
        raise InputError(f"compare was given {len(runs)} run; give two or more")
    read = [read_run(find_run(run, runs_dir)) for run in runs]
    print(as_text(compare_runs(read)))
    for run in read:
        for name in run.unreadable:
            print(f"{run.directory / name}: skipped, because it cannot be read")
    if output is not None:
        path = Path(output).expanduser()
        try:
            write_whole(path, comparison_page(read))
        except OSError as error:
            raise InputError(f"--output {output}: cannot be written ({error.strerror})") from None
        print(f"\n{path}")


def run_compare(argv: list[str]) -> None:
    """Run :func:`compare` with the arguments of a command line."""
    parser = CommandParser("compare", "[--output PAGE.html] [--runs_dir DIR] RUN1 RUN2 …", _DESCRIPTION)
    parser.add_argument("runs", nargs="+", metavar="RUN", help=RUN_HELP)
    parser.add_argument("--output", metavar="PAGE.html", help="HTML page to write as well")
    parser.add_argument("--runs_dir", default="runs", metavar="DIR", help=RUNS_DIR_HELP)
    options = parser.parse_intermixed_args(argv)
    compare(options.runs, options.output, options.runs_dir)
