from __future__ import annotations

import io
import re
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from tests.support.screen import Screen
from tests.support.stall_run import Run, Tiny
from yolo_lightning.data.loading.ordered import Loading, TellsLoading
from yolo_lightning.monitoring.screen.progress import EpochProgress
from yolo_lightning.performance import bottleneck
from yolo_lightning.performance.stalls import StallMonitor


class FakeData(TellsLoading):
    def __init__(self, loading: Loading) -> None:
        self.indices = {}
        self.facts = loading

    @property
    def loading(self) -> Loading:
        return self.facts


def test_a_loss_is_explained_after_its_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    loading = Loading("none", 2, 8, 0.1, "disk")
    run.trainer.datamodule = FakeData(loading)
    run.whole_epoch(wait_s=3)
    assert run.module.printed == []  # the row of the epoch comes first
    run.epoch()
    [line] = run.module.printed
    assert line.startswith("23 % of this epoch was lost waiting for images: decoding keeps 2 workers")
    assert "--data.cache disk" in line


def test_the_last_epoch_is_explained_too(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.whole_epoch(wait_s=3)
    run.monitor.on_train_end(run.trainer, run.module)
    assert len(run.module.printed) == 1
    run.monitor.on_train_end(run.trainer, run.module)
    assert len(run.module.printed) == 1


def test_where_little_is_lost_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.whole_epoch(wait_s=0.4)
    run.monitor.on_train_end(run.trainer, run.module)
    assert run.module.printed == []


def test_a_line_returns_after_ten_epochs_or_with_another_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    printed_after = []
    for epoch in range(14):
        cause = {"read_fraction": 0.9 if epoch in (12, 13) else 0.1}
        run.trainer.datamodule = FakeData(Loading("none", 2, 2, fitting_cache=None, **cause))
        before = len(run.module.printed)
        run.whole_epoch(wait_s=3)
        run.epoch()
        printed_after += [epoch] * (len(run.module.printed) - before)
    assert printed_after == [0, 10, 12]
    assert "decoding" in run.module.printed[0] and "the disk is slow" in run.module.printed[2]


def test_a_second_run_is_explained_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    for _ in range(2):
        run.monitor.on_train_start(run.trainer, run.module)
        run.whole_epoch(wait_s=3)
        run.monitor.on_train_end(run.trainer, run.module)
    assert len(run.module.printed) == 2


class Slow(Tiny):
    """Its loader takes 0.1 s a batch, its step a hundredth of that."""

    def train_dataloader(self) -> Any:
        class Images(torch.utils.data.Dataset[Any]):
            def __len__(self) -> int:
                return 4

            def __getitem__(self, position: int) -> Any:
                time.sleep(0.1)
                return SimpleNamespace(images=torch.ones(4, 1))

        return torch.utils.data.DataLoader(Images(), batch_size=None)

    def on_train_epoch_end(self) -> None:
        self.log("train/box_loss", 1.0)


@pytest.fixture
def short_epochs_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bottleneck, "SHORTEST_EPOCH_S", 0.1)


@pytest.mark.usefixtures("short_epochs_count")
@pytest.mark.parametrize("terminal", [False, True])
def test_a_line_stands_below_the_row_of_its_epoch(
    terminal: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "300")
    trainer = Trainer(
        default_root_dir=tmp_path, max_epochs=2, accelerator="cpu", devices=1, logger=False,
        enable_checkpointing=False, enable_model_summary=False, callbacks=[EpochProgress(), StallMonitor()],
    )  # fmt: skip
    trainer.fit(Slow())
    lines = [line.strip() for line in Screen(300).write(stream.getvalue()).text.splitlines()]
    row = next(i for i, line in enumerate(lines) if re.match(r"1/2 ", line))
    told = [i for i, line in enumerate(lines) if "of this epoch was lost waiting for images" in line]
    assert len(told) == 1  # the second epoch has the same cause
    assert row < told[0]
    assert lines[told[0]].endswith("keep decoded images")  # whole, not torn by a bar
    assert next(i for i, line in enumerate(lines) if re.match(r"2/2 ", line)) > told[0]


@pytest.mark.usefixtures("short_epochs_count")
def test_without_a_bar_a_line_is_printed_too(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Trainer(
        default_root_dir=tmp_path, max_epochs=1, accelerator="cpu", devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[StallMonitor()],
    )  # fmt: skip
    trainer.fit(Slow())
    assert "of this epoch was lost waiting for images" in capsys.readouterr().out
