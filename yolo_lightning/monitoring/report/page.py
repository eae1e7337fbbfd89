"""Pages of HTML, each in one file: the report of a run, and runs side by side."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from ...runs.directory import METRICS, images_per_second
from ...system.background import BackgroundQueue
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
    return render(
        "report.html.j2",
        run=run,
        described=sections.described(run),
        epochs=sections.epochs_text(run),
        parts=run.time_budget.get("processes", 1),
        speed=images_per_second(run.rows),
        wall_seconds=sections.wall_seconds(run),
        classes=classes,
        weakest=sections.weakest(classes),
        confidence=run.evaluation.best_confidence if run.evaluation else None,
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
    return render(
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


def render(template: str, **values: Any) -> str:
    """Fill in a template of this folder; every value is escaped."""
    return _environment().get_template(template).render(values)


class RunReport(Checkpoint):
    """Writes ``report.html`` when training ends or is stopped, but not when it fails.

    It is a ``Checkpoint`` so that it runs after ``RunRecorder``, which writes what the report shows.

    Args:
        directory: the run directory.
        queue: the report waits for the files that it writes.
    """

    def __init__(self, directory: str | Path, queue: BackgroundQueue) -> None:
        self.directory = Path(directory)
        self._queue = queue

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, (KeyboardInterrupt, SystemExit)):  # stopped from outside, not failed
            self._write(trainer, pl_module)

    def _write(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        self._queue.drain()
        if not (self.directory / METRICS).is_file():
            return  # stopped within its first epoch
        try:
            path = write_report(self.directory)
        except Exception as error:  # the run is complete without a report
            warnings.warn(f"the report could not be made ({type(error).__name__}: {error})", stacklevel=1)
            return
        pl_module.print(f"report         {path}")
