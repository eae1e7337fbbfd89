"""The report of a run: one page, in one file."""

from __future__ import annotations

import os
from pathlib import Path

from . import budget, curves, evaluation, machine, next_steps, outcome, pictures
from .layout import both, document
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
    write_page(path, page(run))
    return path


def write_page(path: Path, text: str) -> None:
    """Write a page so that whoever opens it sees the old one or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", errors="replace")  # names may be no Unicode
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
