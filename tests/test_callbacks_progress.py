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
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from yolo_lightning.callbacks import progress
from yolo_lightning.callbacks.progress import EpochProgress
from yolo_lightning.callbacks.stalls import StallMonitor

MAPS = [0.1, 0.3, 0.2, 0.25, 0.5]
"""What each epoch's validation gives."""


def loader(batches: int = 3) -> Any:
    data = [SimpleNamespace(images=torch.ones(4, 1)) for _ in range(batches)]
    return torch.utils.data.DataLoader(data, batch_size=None)  # type: ignore[arg-type]


class Tiny(LightningModule):
    """Logs what a detector logs, with figures that name their epoch: box loss 3.25 in epoch 3."""

    def __init__(self, nan_loss: bool = False) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.nan_loss = nan_loss
        self.running_losses: dict[str, torch.Tensor] = {}

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
            "map_small": -1.0, "map_medium": 0.02, "map_large": 0.03,
            "map_class/red cell": 0.15, "map_class/platelet": float("nan"),
        }  # fmt: skip
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def make_trainer(root: Path, *callbacks: Callback, **options: Any) -> Trainer:
    settings: dict[str, Any] = {
        "default_root_dir": root, "accelerator": "cpu", "devices": 1, "logger": False, "max_epochs": 3,
        "enable_checkpointing": False, "enable_model_summary": False, "num_sanity_val_steps": 1,
    }  # fmt: skip
    return Trainer(callbacks=[EpochProgress(), *callbacks, StallMonitor()], **(settings | options))


def rows(text: str) -> list[list[str]]:
    """The lines of epochs, in columns."""
    return [line.split() for line in text.splitlines() if re.match(r"\s+\d+/\d+ ", line)]


def test_lines_show_their_own_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer(tmp_path).fit(Tiny(), loader(), loader(2))
    out = capsys.readouterr().out
    assert "\r" not in out and "\x1b" not in out
    header = [line for line in out.splitlines() if "mAP50-95" in line]
    assert len(header) == 1
    assert header[0].split() == [
        "epoch", "box", "obj", "cls", "mAP50", "mAP50-95", "images/s", "data", "wait", "seconds",
    ]  # fmt: skip
    assert [row[:6] for row in rows(out)] == [
        ["1/3", "0.2500", "0.5000", "0.1250", "0.5000", "0.1000"],
        ["2/3", "1.2500", "0.5000", "0.1250", "0.7000", "0.3000"],
        ["3/3", "2.2500", "0.5000", "0.1250", "0.6000", "0.2000"],
    ]
    for row in rows(out):
        assert float(row[6]) > 0
        assert 0 <= int(row[7].removesuffix("%")) <= 100
        assert float(row[8]) >= 0
    assert [row[-1] == "*" for row in rows(out)] == [True, True, False]


def test_an_epoch_without_validation_has_dashes_not_old_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(tmp_path, max_epochs=5, check_val_every_n_epoch=2)
    trainer.fit(Tiny(), loader(), loader(2))
    found = rows(capsys.readouterr().out)
    assert [row[0] for row in found] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    assert [row[5] for row in found] == ["-", "0.3000", "-", "0.2500", "-"]
    assert [row[-1] == "*" for row in found] == [False, True, False, False, False]


def test_without_any_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer(tmp_path, limit_val_batches=0).fit(Tiny(), loader(), loader(2))
    out = capsys.readouterr().out
    assert [row[1] for row in rows(out)] == ["0.2500", "1.2500", "2.2500"]
    assert [row[4:6] for row in rows(out)] == [["-", "-"]] * 3
    assert "best" not in out


def test_a_loss_that_is_not_a_number_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer(tmp_path, max_epochs=1).fit(Tiny(nan_loss=True), loader(), loader(2))
    assert rows(capsys.readouterr().out)[0][1] == "nan"


def test_the_header_returns_sparingly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_HEADER_INTERVAL", 2)
    make_trainer(tmp_path, max_epochs=5).fit(Tiny(), loader(1), loader(1))
    lines = capsys.readouterr().out.splitlines()
    assert ["epoch" in line for line in lines[:8]] == [True, False, False, True, False, False, True, False]


def test_fit_ends_with_where_everything_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "a run"
    make_trainer(root, saver(root), enable_checkpointing=True).fit(Tiny(), loader(), loader(2))
    lines = capsys.readouterr().out.splitlines()[-5:]
    assert lines[0] == "best val/map 0.3000 in epoch 2"
    assert lines[1].endswith(str(root))
    assert lines[2].endswith(f"{root}/checkpoints/best.ckpt")
    assert lines[3].endswith(f"{root}/checkpoints/last.ckpt")
    assert lines[4].endswith(f"tensorboard --logdir '{root}'")


def saver(root: Path) -> ModelCheckpoint:
    return ModelCheckpoint(root / "checkpoints", "best", monitor="val/map", mode="max", save_last=True)


def test_a_resumed_run_remembers_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer(tmp_path, saver(tmp_path), enable_checkpointing=True, max_epochs=2).fit(
        Tiny(), loader(), loader(2)
    )
    capsys.readouterr()
    trainer = make_trainer(tmp_path, saver(tmp_path), enable_checkpointing=True, max_epochs=4)
    trainer.fit(Tiny(), loader(), loader(2), ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    out = capsys.readouterr().out
    assert [(row[0], row[1], row[-1] == "*") for row in rows(out)] == [
        ("3/4", "2.2500", False),
        ("4/4", "3.2500", False),
    ]
    assert "best val/map 0.3000 in epoch 2" in out


def test_interrupted_training_says_where_everything_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupt(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            if trainer.current_epoch == 1:
                raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        make_trainer(tmp_path, Interrupt()).fit(Tiny(), loader(), loader(2))
    out = capsys.readouterr().out
    assert [row[0] for row in rows(out)] == ["1/3"]
    assert f"tensorboard --logdir {tmp_path}" in out


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_evaluation_prints_a_table(stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    getattr(make_trainer(tmp_path), stage)(Tiny(), loader(2), verbose=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["val" if stage == "validate" else "test", "mAP50-95", "mAP50", "mAP75", "small", "medium", "large"],
        ["all", "classes", "0.1000", "0.5000", "0.0500", "-", "0.0200", "0.0300"],
        ["red", "cell", "0.1500"],
        ["platelet", "-"],
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_bars_and_the_same_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "200")
    trainer = make_trainer(tmp_path, num_sanity_val_steps=0)
    trainer.fit(Tiny(), loader(), loader(2))
    text = sys.stdout.getvalue()  # type: ignore[attr-defined]
    frames = re.split(r"[\r\n]", text)
    bars = [frame for frame in frames if "epoch 2/3 " in frame]
    assert any("3/3" in frame and "100%" in frame for frame in bars)
    assert any("validating" in frame for frame in frames)
    # Losses are read once in so short an epoch, after its first batch.
    assert any("box 1.2500  obj 0.5000  cls 0.1250" in frame for frame in bars)
    assert any("images/s" in frame and "data wait" in frame and "run 00:00 left" in frame for frame in bars)
    printed = [frame.split() for frame in frames if re.match(r"\s+\d+/\d+ ", frame)]
    assert [row[:2] for row in printed] == [["1/3", "0.2500"], ["2/3", "1.2500"], ["3/3", "2.2500"]]


def test_losses_are_read_once_a_second_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    reads: list[float] = []

    def read(pl_module: LightningModule) -> str:
        reads.append(clock.now)
        return "box 1"

    class Tick(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            clock.now += 0.4

    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(progress, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(progress, "_running_losses", read)
    make_trainer(tmp_path, Tick(), max_epochs=1).fit(Tiny(), loader(10), loader(2))
    assert reads == pytest.approx([0.4, 1.6, 2.8, 4.0])


def test_without_a_terminal_losses_are_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(pl_module: LightningModule) -> str:
        raise AssertionError("reading waits for the device")

    monkeypatch.setattr(progress, "_running_losses", read)
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(Tiny(), loader(), loader(2))
    assert trainer.current_epoch == 1  # it ran to its end


def test_only_the_first_process_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar = EpochProgress()
    bar.setup(SimpleNamespace(is_global_zero=False), Tiny(), "fit")  # type: ignore[arg-type]
    assert not bar.is_enabled
    bar.on_fit_end(SimpleNamespace(default_root_dir=tmp_path), Tiny())  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""
