"""Training in one call: ``fit(data="DIR", weights="yolov5n.pt", epochs=30)``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..inference.detector import Detector
from ..monitoring.report.read import Row, read_run
from ..runs.directory import with_run_config
from ..system.signals import watching
from ..system.start_time import begin_anew
from .main import as_call, as_text


@dataclass(frozen=True)
class TrainedRun:
    """A training that has ended."""

    directory: Path
    """Run directory, with everything that the training wrote."""
    best: Row
    """Metrics of the best epoch, such as ``val/map``."""
    last: Row
    """Metrics of the last epoch."""
    best_checkpoint: Path | None
    """Weights of the best epoch; None if no checkpoints are kept."""
    last_checkpoint: Path | None
    """State from which the run resumes; None if no checkpoints are kept."""

    def detector(self, **options: Any) -> Detector:
        """The model of the best epoch in use; the options are those of ``Detector``.

        Raises:
            InputError: no checkpoints are kept, or an option is wrong.
        """
        if self.best_checkpoint is None:
            raise InputError(f"{self.directory}: has no best.ckpt; leave trainer.enable_checkpointing out")
        return Detector(self.best_checkpoint, **options)


def fit(
    data: str | Path | None = None,
    weights: str | Path | None = None,
    epochs: int | None = None,
    **options: Any,
) -> TrainedRun:
    """Train a model as ``yolo-lightning fit`` does.

    Args:
        data: folder of the data set, as ``--data.root``.
        weights: initial weights, as ``--model.weights``.
        epochs: epochs of the training, as ``--trainer.max_epochs``.
        **options: options of ``fit`` by their names on the command line, with two underscores for a dot:
            ``data__image_size=320``, ``run_name="mine"``; or ``**{"data.image_size": 320}``.

    Returns:
        The run: its metrics, its paths, and its model.

    Raises:
        InputError: an option or the data is wrong.
    """
    from .launcher import YoloCLI, launch

    given = {"data.root": data, "model.weights": weights, "trainer.max_epochs": epochs}
    named = {name.replace("__", "."): value for name, value in options.items()}
    if twice := [name for name in named if given.get(name) is not None]:
        raise InputError(f"{twice[0]} is given twice; give it once")
    arguments = {name: value for name, value in given.items() if value is not None} | named
    begin_anew()
    with as_call("fit"), watching():
        command = ["fit", *(f"--{name}={as_text(name, value)}" for name, value in arguments.items())]
        directory = launch(YoloCLI, with_run_config(command)).run_directory
    run = read_run(directory)
    return TrainedRun(directory, run.best, run.last, run.checkpoint("best"), run.checkpoint("last"))
