"""Pages of HTML, each in one file: the report of a run, and runs side by side."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ...runs.directory import images_per_second
from ...system.files import write_whole
from ..metric_names import MAP, MAP_50, METRIC_TITLES, duration_text, number
from ..pictures.plots import line_colour
from . import sections
from .charts import comparison_curves, evaluation_plots, pictures, training_curves
from .compare import compare_runs
from .read import Run, read_run

if TYPE_CHECKING:
    from jinja2 import Environment

REPORT = "report.html"


def report_page(run: Run) -> str:
    """The report of a run as HTML."""
    classes, phases = sections.class_scores(run), sections.phases(run.time_budget)
    return _render(
        "report.html.j2",
        run=run,
        described=sections.described(run),
        best_epoch=int(run.best["epoch"]) + 1,
        last_epoch=int(run.last["epoch"]) + 1,
        epochs=sections.epochs_text(run),
        parts=run.time_budget.get("processes", 1),
        speed=images_per_second(run.rows),
        wall_seconds=sections.wall_seconds(run),
        classes=classes,
        weakest=sections.weakest(classes),
        confidence=sections.best_confidence(run),
        curves=training_curves(run),
        plots=evaluation_plots(run),
        pictures=pictures(run),
        phases=phases,
        training_seconds=sum(phase.seconds for phase in phases if phase.key == "step"),
        gpus=sections.gpu_table(run.gpus),
        faults=sections.lines([gpu.get("faults") for gpu in run.gpus]),
        facts=sections.facts(run),
        config=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True) if run.config else "",
        commands=list(sections.commands(run)),
    )


def comparison_page(runs: Sequence[Run]) -> str:
    """Several runs side by side as HTML, with their curves laid over each other."""
    compared = compare_runs(runs)
    return _render(
        "compare.html.j2",
        runs=runs,
        compared=compared,
        colours=[line_colour(i) for i in range(len(runs))],
        curves=comparison_curves(runs, compared.names),
    )


def write_report(directory: str | Path) -> Path:
    """Make ``report.html`` from the files of a run directory; returns its path.

    Raises:
        InputError: there is no ``metrics.csv`` that holds an epoch.
        OSError: it cannot be written.
    """
    run = read_run(directory)
    path = run.directory / REPORT
    write_whole(path, report_page(run))
    return path


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # here: most commands need no page

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, duration=duration_text)
    environment.globals.update(MAP=MAP, MAP_50=MAP_50, metrics=METRIC_TITLES)
    return environment


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(values)
