from __future__ import annotations

from pathlib import Path

import pytest
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import SingleDeviceStrategy

from yolo_lightning import DetectionDataModule, YOLOv5
from yolo_lightning.cli.fit_callbacks import tensorboard, training_callbacks, with_checkpoint_io
from yolo_lightning.cli.launcher import DryCLI, launch
from yolo_lightning.errors import InputError
from yolo_lightning.monitoring.gpu_health.callback import GpuHealth
from yolo_lightning.monitoring.options import DashboardConfig
from yolo_lightning.monitoring.report.page import RunReport
from yolo_lightning.monitoring.tensorboard.curves import EvaluationCurves
from yolo_lightning.monitoring.tensorboard.pictures import FeatureMapPictures, Pictures
from yolo_lightning.runs.checkpoint import EpochCheckpoint
from yolo_lightning.runs.checkpoint_io import RunCheckpointIO
from yolo_lightning.runs.interruption import Interruption
from yolo_lightning.runs.patience import Patience
from yolo_lightning.runs.record import RunRecorder


def saving(callbacks: list[Callback]) -> list[type]:
    return [type(callback) for callback in callbacks if isinstance(callback, Checkpoint)]


def test_an_epoch_is_written_down_then_saved_and_only_then_the_run_stops(tmp_path: Path) -> None:
    callbacks = training_callbacks(tmp_path, True, 15, 100)
    assert saving(callbacks) == [RunRecorder, EpochCheckpoint, EpochCheckpoint, RunReport, Interruption]
    assert callbacks[-1].path == tmp_path / "checkpoints" / "last.ckpt"  # type: ignore[attr-defined]
    assert callbacks[-1].interval_s == 900  # type: ignore[attr-defined]


def test_without_checkpoints_and_patience(tmp_path: Path) -> None:
    callbacks = training_callbacks(tmp_path, False, 0, 0)
    assert saving(callbacks) == [RunRecorder, RunReport, Interruption]
    assert not any(isinstance(callback, Patience) for callback in callbacks)


def test_a_run_shows_what_it_is_asked_to(tmp_path: Path) -> None:
    nothing = DashboardConfig(pictures=0, curves=False, graph=False, gpu_health=False, report=False)
    optional = {Pictures, EvaluationCurves, GpuHealth, RunReport, FeatureMapPictures}
    quiet = {type(callback) for callback in training_callbacks(tmp_path, dashboard=nothing)}
    usual = {type(callback) for callback in training_callbacks(tmp_path)}
    everything = training_callbacks(tmp_path, dashboard=DashboardConfig(feature_maps_every=3))
    assert not quiet & optional
    assert usual - quiet == optional - {FeatureMapPictures}
    assert {type(callback) for callback in everything} - usual == {FeatureMapPictures}


@pytest.mark.parametrize(
    ("minutes", "patience", "name"), [(-1, 1, "checkpoint_minutes"), (1, -1, "patience")]
)
def test_negative_numbers_are_refused(minutes: float, patience: int, name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{name} is -1; give 0 or more"):
        training_callbacks(tmp_path, True, minutes, patience)


def test_an_unknown_monitor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean val/map_50"):
        training_callbacks(tmp_path, monitor="val/map50")


@pytest.mark.parametrize(("architecture", "missing"), [("yolov5n", "dfl"), ("yolov5nu", "obj")])
def test_a_loss_that_the_network_does_not_have_is_refused(
    architecture: str, missing: str, shapes: Path
) -> None:
    options = ["fit", f"--data.root={shapes}", f"--model.architecture={architecture}"]
    launch(DryCLI, [*options, "--monitor=box_loss"])
    with pytest.raises(
        InputError, match=f"monitor is 'val/{missing}_loss', .* there are val/loss, val/box_loss"
    ):
        launch(DryCLI, [*options, f"--monitor=val/{missing}_loss"])


def test_what_the_user_plugs_in_stays() -> None:
    other, own = LightningEnvironment(), TorchCheckpointIO()
    assert [type(plugin) for plugin in with_checkpoint_io(None, "auto")] == [RunCheckpointIO]
    assert with_checkpoint_io(other, "auto")[0] is other
    assert with_checkpoint_io([other, own], "auto") == [other, own]
    strategy = SingleDeviceStrategy("cpu", checkpoint_io=own)
    assert with_checkpoint_io([], strategy) == []


def test_with_python_alone_a_run_leaves_what_the_command_line_leaves(shapes: Path, tmp_path: Path) -> None:
    module = YOLOv5(compile=False)
    data = DetectionDataModule(root=str(shapes), image_size=64, batch_size=4, num_workers=0)
    run = tmp_path / "runs" / "mine"
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=tensorboard(run, None),
        callbacks=training_callbacks(run),
        limit_train_batches=2,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run,
    )
    trainer.fit(module, data)
    left = {path.name for path in run.rglob("*") if path.is_file() and "tfevents" not in path.name}
    assert left >= {
        "metrics.csv", "summary.json", "environment.json", "evaluation.json", "time_budget.json",
        "report.html", "best.ckpt", "last.ckpt", "labels.png", "augmented.jpg", "predictions.jpg",
    }  # fmt: skip
