"""Runs of the stall monitor by clocks that move only when told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule

from yolo_lightning.performance import stalls
from yolo_lightning.performance.busy_cores import CoreWatch
from yolo_lightning.performance.device_clock import DeviceClock
from yolo_lightning.performance.stalls import StallMonitor


class Clock:
    """A clock that moves only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Logged:
    """In the place of a LightningModule: keeps what is logged and printed."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.options: dict[str, dict[str, Any]] = {}
        self.printed: list[str] = []
        self.device = torch.device("cpu")

    def log_dict(self, values: dict[str, float], **options: Any) -> None:
        self.values |= values
        self.options |= {name: options for name in values}

    def print(self, line: str) -> None:
        self.printed.append(line)


class Run:
    """Drives the hooks of a monitor by a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, world_size: int = 1) -> None:
        self.clock = Clock()
        monkeypatch.setattr(stalls, "perf_counter", self.clock)
        monkeypatch.setattr(stalls, "CoreWatch", lambda: CoreWatch(lambda: None, lambda: None))
        self.monitor = StallMonitor()
        self.trainer: Any = SimpleNamespace(
            world_size=world_size,
            current_epoch=0,
            datamodule=None,
            fit_loop=SimpleNamespace(restarted_mid_epoch=False),
        )
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
        self.trainer.current_epoch += 1
        return self.module.values

    def whole_epoch(self, wait_s: float) -> None:
        """An epoch of three batches of 10 s, each after this wait."""
        self.epoch()
        for _ in range(3):
            self.batch(wait_s, 10, 4)
        self.end()


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


class FakeDevice:
    """A device that is done with each event as soon as the host's clock has come to a given time."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.free_at = 0.0
        """When the device is done with all that it was given."""

    def launch(self, seconds: float) -> None:
        self.free_at = max(self.free_at, self.clock.now) + seconds

    def event(self) -> Any:
        device = self

        class Event:
            at = float("inf")

            def record(self) -> None:
                self.at = max(device.free_at, device.clock.now)

            def query(self) -> bool:
                return device.clock.now >= self.at

            def elapsed_time(self, end_event: Any) -> float:
                assert self.query() and end_event.query()
                return 1000 * (end_event.at - self.at)

        return Event()


class DeviceRun(Run):
    """A run on a device that works beside the host."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stalls, "device_clock", lambda device: DeviceClock(self.device.event))
        self.device = FakeDevice(Clock())
        super().__init__(monkeypatch)
        self.device.clock = self.clock

    def launch(self, wait_s: float, host_s: float, device_s: float) -> None:
        """A batch: the host waits for it, then takes ``host_s`` to launch ``device_s`` of work."""
        batch: Any = SimpleNamespace(images=torch.zeros(4, 3, 2, 2))
        self.clock.now += wait_s
        self.monitor.on_train_batch_start(self.trainer, self.module, batch, 0)
        self.device.launch(device_s)
        self.clock.now += host_s
        self.monitor.on_train_batch_end(self.trainer, self.module, None, batch, 0)

    def validate(self, seconds: float) -> None:
        self.monitor.on_validation_start(self.trainer, self.module)
        self.device.launch(seconds)
        self.clock.now += 2 * seconds
