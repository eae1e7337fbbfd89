from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from yolo_lightning.callbacks import stalls
from yolo_lightning.callbacks.stalls import StallMonitor


class Clock:
    """A clock that moves only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Logged:
    """In the place of a LightningModule: keeps what is logged."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def log_dict(self, values: dict[str, float], **options: Any) -> None:
        self.values = values


class Run:
    """Drives the hooks of a monitor by a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, world_size: int = 1) -> None:
        self.clock = Clock()
        monkeypatch.setattr(stalls, "perf_counter", self.clock)
        self.monitor = StallMonitor()
        self.trainer: Any = SimpleNamespace(world_size=world_size)
        self.module: Any = Logged()
        self.monitor.on_train_start(self.trainer, self.module)

    def epoch(self) -> None:
        self.monitor.on_train_epoch_start(self.trainer, self.module)

    def batch(self, wait_s: float, step_s: float, images: int) -> None:
        batch: Any = SimpleNamespace(images=torch.zeros(images, 3, 2, 2))
        self.clock.now += wait_s
        self.monitor.on_train_batch_start(self.trainer, self.module, batch, 0)
        self.clock.now += step_s
        self.monitor.on_train_batch_end(self.trainer, self.module, None, batch, 0)

    def end(self) -> dict[str, float]:
        self.monitor.on_train_epoch_end(self.trainer, self.module)
        return self.module.values


def test_first_batch_of_the_run_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.epoch()
    run.batch(wait_s=5, step_s=60, images=4)  # starts workers and compiles
    run.batch(wait_s=1, step_s=3, images=4)
    run.batch(wait_s=3, step_s=1, images=8)
    values = run.end()
    assert values["perf/images_per_second"] == pytest.approx(12 / 8)
    assert values["perf/data_wait_fraction"] == pytest.approx(4 / 8)
    assert values["perf/step_ms"] == pytest.approx(2000)


def test_first_batch_of_a_later_epoch_counts_with_its_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.epoch()
    run.batch(wait_s=0, step_s=50, images=4)
    run.epoch()
    run.batch(wait_s=6, step_s=2, images=4)
    values = run.end()
    assert values["perf/images_per_second"] == pytest.approx(4 / 8)
    assert values["perf/data_wait_fraction"] == pytest.approx(6 / 8)


def test_a_single_batch_is_measured_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.epoch()
    assert run.monitor.images_per_second == 0
    assert run.monitor.data_wait_fraction == 0
    assert run.monitor.step_ms == 0
    run.batch(wait_s=1, step_s=3, images=8)
    assert run.end()["perf/images_per_second"] == pytest.approx(2)


def test_validation_within_an_epoch_is_not_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.epoch()
    run.batch(0, 1, 4)
    run.batch(1, 1, 4)
    run.monitor.on_validation_start(run.trainer, run.module)
    run.clock.now += 1000
    run.batch(1, 1, 4)
    run.batch(1, 1, 4)
    values = run.end()
    assert values["perf/data_wait_fraction"] == pytest.approx(2 / 5)  # 1 + 0 + 1 of 2 + 1 + 2 seconds
    assert values["perf/images_per_second"] == pytest.approx(12 / 5)


def test_images_of_all_processes_count(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, world_size=4)
    run.epoch()
    run.batch(0, 9, 4)
    run.batch(0, 2, 4)
    assert run.monitor.images_per_second == pytest.approx(8)


def test_a_second_run_warms_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.epoch()
    run.batch(0, 1, 4)
    run.monitor.on_train_start(run.trainer, run.module)
    run.epoch()
    run.batch(0, 100, 4)
    run.batch(0, 2, 4)
    assert run.end()["perf/step_ms"] == pytest.approx(2000)


class Tiny(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.layer(batch.images).mean()

    def train_dataloader(self) -> Any:
        loader = [SimpleNamespace(images=torch.ones(4, 1)) for _ in range(3)]
        return torch.utils.data.DataLoader(loader, batch_size=None)  # type: ignore[arg-type]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_trainer_logs_it(tmp_path: Any) -> None:
    trainer = Trainer(
        default_root_dir=tmp_path, max_epochs=2, accelerator="cpu", devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[StallMonitor()],
    )  # fmt: skip
    trainer.fit(Tiny())
    metrics = trainer.callback_metrics
    assert metrics["perf/images_per_second"] > 0
    assert 0 <= metrics["perf/data_wait_fraction"] <= 1
    assert metrics["perf/step_ms"] > 0
