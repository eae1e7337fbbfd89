"""Pictures in the loggers of a run; each logger is tested where its library is installed."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CometLogger, CSVLogger, Logger, MLFlowLogger, WandbLogger
from torch.utils.data import DataLoader

from tests.monitoring.tensorboard.test_curves import Evaluated
from yolo_lightning.monitoring.loggers import log_picture, picture_loggers
from yolo_lightning.monitoring.tensorboard.curves import EvaluationCurves
from yolo_lightning.system.background import BackgroundQueue

PICTURE = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)


def fit(folder: Path, logger: Logger) -> None:
    """A validation whose curves are drawn on a background thread, and a picture of its own."""
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=logger, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
        callbacks=[EvaluationCurves(folder, BackgroundQueue())], num_sanity_val_steps=0,
    )  # fmt: skip
    loader = DataLoader(np.zeros((4, 1), np.float32), batch_size=2)  # type: ignore[arg-type]
    trainer.fit(Evaluated([2]), loader, loader)
    log_picture(picture_loggers(trainer), "pictures/own", PICTURE, 7)


def pixels(path: Path) -> Any:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def test_weights_and_biases_gets_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    fit(tmp_path, WandbLogger(offline=True, save_dir=str(tmp_path), project="test"))
    wandb.finish()
    [media] = tmp_path.glob("wandb/offline-run-*/files/media/images")
    names = [path.name.split("_")[0] for path in media.glob("curves/*.png")]
    assert sorted(names) == ["confusion", "f1", "precision"]
    [own] = media.glob("pictures/own_*.png")
    np.testing.assert_array_equal(pixels(own), PICTURE)


def test_mlflow_gets_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLFlowLogger(tracking_uri=(tmp_path / "mlruns").as_uri())
    fit(tmp_path, logger)
    files = mlflow.artifacts.list_artifacts(
        run_id=logger.run_id, artifact_path="images", tracking_uri=logger._tracking_uri
    )
    names = {re.split("[%+]", Path(file.path).name)[0] for file in files if file.path.endswith(".png")}
    assert {re.sub(r"\W", "/", name) for name in names} == {
        "curves/confusion", "curves/f1", "curves/precision_recall", "pictures/own",
    }  # fmt: skip
    [own] = (tmp_path / "mlruns").rglob("pictures?own*.png")
    np.testing.assert_array_equal(pixels(own), PICTURE)


def test_comet_gets_them(tmp_path: Path) -> None:
    """Comet writes its own archive when it is offline, so what it is called with counts."""
    logged = []
    logger = CometLogger.__new__(CometLogger)
    logger._experiment = SimpleNamespace(log_image=lambda *given, **named: logged.append((given, named)))
    log_picture([logger], "pictures/own", PICTURE, 7)
    [((picture,), named)] = logged
    assert picture is PICTURE and named == {"name": "pictures/own", "step": 7}


def test_aim_gets_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aim = pytest.importorskip("aim")
    from aim.pytorch_lightning import AimLogger

    logger = AimLogger(repo=str(tmp_path), system_tracking_interval=None, capture_terminal_logs=False)
    track, tracked = logger.experiment.track, {}

    def watched(value: Any, name: str, **options: Any) -> None:
        tracked[name] = value, options["step"]
        track(value, name=name, **options)  # which refuses what is no picture

    monkeypatch.setattr(logger.experiment, "track", watched)
    fit(tmp_path, logger)
    tracked = {name: value for name, value in tracked.items() if name.startswith("curves/")}
    assert tracked.keys() == {"curves/confusion", "curves/f1", "curves/precision_recall"}
    assert all(isinstance(picture, aim.Image) and step == 1 for picture, step in tracked.values())


def test_a_logger_of_figures_alone_gets_none(tmp_path: Path) -> None:
    trainer = Trainer(logger=CSVLogger(tmp_path), accelerator="cpu")
    assert picture_loggers(trainer) == []
    assert log_picture([], "pictures/own", PICTURE, 7).startswith(b"\x89PNG")
