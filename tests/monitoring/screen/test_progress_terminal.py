"""What a terminal shows of a run."""

from __future__ import annotations

import logging
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from tests.support.progress_run import Tiny, frames, loader, make_trainer, rows, use_terminal
from tests.support.screen import Screen
from yolo_lightning.monitoring.screen import display, progress
from yolo_lightning.training.compilation import Compilation


@pytest.fixture
def eager_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars are drawn after every batch."""
    monkeypatch.setattr(display, "INTERVAL_S", 0.0)


@pytest.mark.usefixtures("eager_drawing")
def test_a_terminal_shows_bars_and_the_same_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = count()
    monkeypatch.setattr(progress, "perf_counter", lambda: next(looks) / 1000)  # 1 ms a look, on any machine
    terminal = use_terminal(monkeypatch)
    make_trainer(tmp_path, num_sanity_val_steps=0).fit(Tiny(), loader(), loader(2))
    seen = frames(terminal)
    training = [frame for frame in seen if frame.startswith("epoch 2/3 ")]
    assert any("100%" in frame and " 3/3 " in frame for frame in training)
    assert any(frame.startswith("validating  50%") and " 1/2 " in frame for frame in seen)
    # Losses are read once in so short an epoch, after its first batch.
    assert any("box 1.2500  obj 0.5000  cls 0.1250" in frame for frame in training)
    assert any("run 0:00 left" in frame and "images/s  data wait" in frame for frame in training)
    screen = Screen(200).write(terminal.getvalue())
    assert not screen.is_cursor_hidden
    lines = screen.text.splitlines()
    assert lines[0].split()[0] == "epoch" and "left" in lines[0]
    printed = [row.split()[:2] for row in lines[1:4]]
    assert printed == [["1/3", "0.2500"], ["2/3", "1.2500"], ["3/3", "2.2500"]]
    assert lines[4].startswith("best val/map 0.3000")
    assert len(lines) == 6  # and no trace of a bar
    assert [text.split()[0] for text in screen.coloured if "━" not in text] == ["1/3", "2/3", "best"]


class Endless(torch.utils.data.IterableDataset[Any]):
    """Three batches, whose number nobody knows before."""

    def __iter__(self) -> Any:
        return iter(loader(3).dataset)


@pytest.mark.usefixtures("eager_drawing")
def test_a_loader_without_length_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    trainer = make_trainer(tmp_path, num_sanity_val_steps=0)
    unknown = torch.utils.data.DataLoader(Endless(), batch_size=None)
    trainer.fit(Tiny(), unknown, unknown)
    seen = frames(terminal)
    assert any(frame.startswith("epoch 1/3 3  0:0") for frame in seen)
    assert any(frame.startswith("validating 2  0:0") for frame in seen)
    assert not any("inf" in frame for frame in seen)


def test_what_others_write_is_above_the_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    monkeypatch.setattr(sys, "stderr", terminal)
    logger = logging.getLogger("tests.progress")
    logger.addHandler(logging.StreamHandler(terminal))
    logger.propagate = False

    class Talker(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            assert sys.stdout is not terminal
            print("printed", end="")
            print(" [red]twice[/]")
            logger.error("logged")
            sys.stderr.write("warned " + 30 * "of a long line " + "\n")
            pl_module.print("said")

    try:
        make_trainer(tmp_path, Talker(), max_epochs=1).fit(Tiny(), loader(1), loader(1))
    finally:
        logger.handlers.clear()
    assert sys.stdout is terminal and sys.stderr is terminal
    lines = Screen(200).write(terminal.getvalue()).text.splitlines()
    assert lines[:2] == ["printed [red]twice[/]", "logged"]
    assert "".join(lines[2:5]).startswith("warned of a long line") and lines[5] == "said"
    assert sum("epoch" in line for line in lines) == 2  # the header, and the best


def test_a_narrow_terminal_has_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch, width=40)
    make_trainer(tmp_path / "r").fit(Tiny(), loader(), loader(2))
    screen = Screen(40).write(terminal.getvalue())
    lines = screen.text.splitlines()
    assert lines[0].split() == ["epoch", "mAP50", "mAP50-95", "left"]
    assert [line.split()[0] for line in lines[1:4]] == ["1/3", "2/3", "3/3"]
    assert lines[1].endswith("*") and len(lines[1]) <= 40
    assert "━" not in screen.text


def test_no_colour_where_none_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch, NO_COLOR="1")
    make_trainer(tmp_path).fit(Tiny(), loader(), loader(2))
    assert Screen(200).write(terminal.getvalue()).coloured == []


def test_a_dumb_terminal_gets_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch, TERM="dumb")
    make_trainer(tmp_path).fit(Tiny(), loader(), loader(2))
    assert "\r" not in terminal.getvalue() and "\x1b" not in terminal.getvalue()
    assert [row[0] for row in rows(terminal.getvalue())] == ["1/3", "2/3", "3/3"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_end_by_an_error_leaves_the_terminal_as_it_was(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = use_terminal(monkeypatch)

    class Stop(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise error("enough")

    with pytest.raises((SystemExit, error)):
        make_trainer(tmp_path, Stop()).fit(Tiny(), loader(), loader(2))
    assert sys.stdout is terminal
    screen = Screen(200).write(terminal.getvalue())
    assert not screen.is_cursor_hidden and "━" not in screen.text and screen.column == 0


def test_a_terminal_that_vanishes_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)

    class Vanish(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.current_epoch == 1:
                terminal.write = gone  # type: ignore[assignment]

    def gone(text: str) -> int:
        raise OSError("Input/output error")

    trainer = make_trainer(tmp_path, Vanish())
    with pytest.warns(UserWarning, match="progress is not shown any more"):
        trainer.fit(Tiny(), loader(), loader(2))
    assert trainer.current_epoch == 3
    assert sys.stdout is terminal


@pytest.mark.parametrize("live", [True, False])
def test_the_first_batch_is_announced_and_timed_where_something_is_compiled(
    live: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = use_terminal(monkeypatch, TERM="xterm" if live else "dumb")
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress, "perf_counter", lambda: clock.now)

    class Compiling(Tiny):
        compilation = Compilation(None, augmentation=True, reason="")

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            clock.now += 41.3 if batch_idx == 0 and self.current_epoch == 0 else 1
            return super().training_step(batch, batch_idx)

    make_trainer(tmp_path, max_epochs=2).fit(Compiling(), loader(), loader(2))
    lines = Screen(200).write(terminal.getvalue()).text.splitlines()
    assert lines[0].startswith("compiling the augmentation: ")
    assert lines[1] == "the first batch took 41.3 s, compilation included"
    assert sum("compil" in line for line in lines) == 2
    assert not live or any("compiling" in frame and "epoch 1/2" in frame for frame in frames(terminal))
    # The first epoch took 43.3 s, of which 40.3 will not come again.
    row = next(line.split() for line in lines if line.split()[0] == "1/2")
    assert row[12:14] == ["43.3", "0:03"]


def test_nothing_is_announced_where_nothing_is_compiled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_trainer(tmp_path, max_epochs=1).fit(Tiny(), loader(), loader(2))
    assert "first batch" not in capsys.readouterr().out


def test_losses_are_read_once_a_second_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    reads: list[float] = []

    def read(pl_module: LightningModule) -> str:
        reads.append(clock.now)
        return "box 1"

    class Tick(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            clock.now += 0.4

    use_terminal(monkeypatch)
    monkeypatch.setattr(progress, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(progress, "_running_losses", read)
    make_trainer(tmp_path, Tick(), max_epochs=1).fit(Tiny(), loader(10), loader(2))
    assert reads == pytest.approx([0.4, 1.6, 2.8, 4.0])
