"""Short runs of a module that logs what a detector logs, and what they print."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from yolo_lightning.monitoring.screen.progress import EpochProgress
from yolo_lightning.performance.stalls import StallMonitor
from yolo_lightning.training.compilation import Compilation
from yolo_lightning.training.contracts import TrainsDetections

MAPS = [0.1, 0.3, 0.2, 0.25, 0.5]
"""What each epoch's validation gives."""


def loader(batches: int = 3) -> Any:
    data = [SimpleNamespace(images=torch.ones(4, 1)) for _ in range(batches)]
    return torch.utils.data.DataLoader(data, batch_size=None)  # type: ignore[arg-type]


class Tiny(LightningModule, TrainsDetections):
    """Logs what a detector logs, with figures that name their epoch: box loss 3.25 in epoch 3."""

    compilation = Compilation(None, False, "nothing is compiled")

    def __init__(self, nan_loss: bool = False) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.nan_loss = nan_loss
        self.running_losses: dict[str, torch.Tensor] = {}
        self.waiting = ()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        box = float("nan") if self.nan_loss else self.current_epoch + 0.25
        self.running_losses = {"box": torch.tensor(box), "obj": torch.tensor(0.5), "cls": torch.tensor(0.125)}
        return self.layer(batch.images).mean()

    def on_train_epoch_end(self) -> None:
        self.log_dict({f"train/{name}_loss": value for name, value in self.running_losses.items()})

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def test_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def on_validation_epoch_end(self) -> None:
        self._log("val")

    def on_test_epoch_end(self) -> None:
        self._log("test")

    def _log(self, stage: str) -> None:
        score = MAPS[self.current_epoch]
        values = {
            "map": score, "map_50": score + 0.4, "map_75": 0.05,
            "map_medium": 0.02, "map_large": 0.03,
            "precision": 0.7, "recall": 0.6, "f1": 0.65, "f1_confidence": 0.4,
            "map_class/red cell": 0.15, "f1_class/red cell": 0.35, "map_class/platelet": float("nan"),
        }  # fmt: skip
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class SilentMonitor(StallMonitor):
    """Has no line to say of an epoch in which the machine stood still for a moment."""

    def _diagnose(self, *_: Any) -> None:
        pass


def make_trainer(root: Path, *callbacks: Callback, **options: Any) -> Trainer:
    settings: dict[str, Any] = {
        "default_root_dir": root, "accelerator": "cpu", "devices": 1, "logger": False, "max_epochs": 3,
        "enable_checkpointing": False, "enable_model_summary": False, "num_sanity_val_steps": 1,
    }  # fmt: skip
    return Trainer(callbacks=[EpochProgress(), *callbacks, SilentMonitor()], **(settings | options))


def rows(text: str) -> list[list[str]]:
    """The lines of epochs, in columns."""
    return [line.split() for line in text.splitlines() if re.match(r"\s+\d+/\d+ ", line)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def use_terminal(monkeypatch: pytest.MonkeyPatch, width: int = 200, **environment: str) -> Terminal:
    """Standard output, for as long as a test runs: pytest exchanges it before."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": str(width), **environment}.items():
        monkeypatch.setenv(name, value)
    return stream


def frames(terminal: Terminal) -> list[str]:
    """What stood in each line of the screen at any time, without its colours."""
    text = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", terminal.getvalue())
    return [line.rstrip() for line in re.split(r"[\r\n]", text)]
