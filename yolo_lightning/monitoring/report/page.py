"""The report of a run: one page, in one file."""

from __future__ import annotations

from pathlib import Path

from ...system.files import write_whole
from . import budget, evaluation, machine, next_steps, outcome, pictures
from . import training_curves as curves
from .html import both, document
from .markup import tag
from .read import Run, read_run

REPORT = "report.html"


def page(run: Run) -> str:
    """The report as HTML that needs nothing else."""
    sections = [
        outcome.section(run),
        curves.section(run),
        evaluation.section(run),
        pictures.section(run),
        budget.section(run),
        machine.health(run),
        machine.section(run),
        next_steps.section(run),
    ]
    unread = f"Not readable, and left out: {', '.join(run.unreadable)}. " if run.unreadable else None
    return document(
        f"{run.name} – yolo-lightning",
        outcome.header(run),
        sections,
        both(tag("p", unread, next_steps.footnote()), tag("p", str(run.directory))),
    )


def write_report(directory: str | Path) -> Path:
    """Make ``report.html`` of a run out of the files in its directory; returns its path.

    Raises:
        InputError: there is no ``metrics.csv`` that holds an epoch.
        OSError: it cannot be written.
    """
    run = read_run(directory)
    path = run.directory / REPORT
    write_whole(path, page(run))
    return path
