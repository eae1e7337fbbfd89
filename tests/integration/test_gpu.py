"""What only a CUDA device can show; skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from yolo_lightning import DetectionDataModule, YOLOv5
from yolo_lightning.performance.stalls import StallMonitor
from yolo_lightning.training.ema import ExponentialMovingAverage

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class NoSynchronisation(Callback):
    """Makes every wait of the host for the device an error, from the third batch to the last but one."""

    steps = 0

    def on_train_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: Any, number: int
    ) -> None:
        if number >= 2 and not trainer.is_last_batch:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, *_: Any) -> None:
        self.steps += torch.cuda.get_sync_debug_mode() == 2
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture(autouse=True)
def usual_mode() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


def fit(shapes: Path, tmp_path: Path, module: YOLOv5, *callbacks: Callback, **options: Any) -> Trainer:
    data = DetectionDataModule(str(shapes), image_size=64, batch_size=2, **{"cache": "none"} | options)
    trainer = Trainer(
        accelerator="gpu",
        devices=1,
        precision="bf16-mixed",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
        callbacks=[ExponentialMovingAverage(), *callbacks],
    )
    trainer.fit(module, data)
    return trainer


@pytest.mark.parametrize("compile", [False, "default"])
@pytest.mark.parametrize("cache", ["none", "device"])
def test_the_host_never_waits_for_the_device(shapes: Path, tmp_path: Path, compile: Any, cache: str) -> None:
    watcher = NoSynchronisation()
    fit(shapes, tmp_path, YOLOv5(compile=compile), watcher, cache=cache, num_workers=1)
    assert watcher.steps >= 4


def test_caches_and_streams_give_the_same_weights(shapes: Path, tmp_path: Path) -> None:
    """A slot that a worker wrote to before it was copied would show in the losses."""
    losses = []
    for options in ({"cache": "device"}, {"num_workers": 2}, {"num_workers": 0}):
        module = YOLOv5(compile=False, seed=1)
        torch.manual_seed(0)
        fit(shapes, tmp_path, module, **options)
        losses.append(torch.stack(list(module.running_losses.values())).cpu())
    torch.testing.assert_close(losses[1], losses[0], rtol=2e-2, atol=1e-3)
    torch.testing.assert_close(losses[2], losses[0], rtol=2e-2, atol=1e-3)


def test_idle_time_is_measured_on_the_device(shapes: Path, tmp_path: Path) -> None:
    trainer = fit(shapes, tmp_path, YOLOv5(compile=False), StallMonitor())
    assert 0 <= float(trainer.callback_metrics["perf/device_idle_fraction"]) <= 1
