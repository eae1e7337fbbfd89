"""Runs that lose memory, disk space, a process or the right time: one sentence, and what was saved loads."""

from __future__ import annotations

import csv
import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.integration.test_ddp_interruption import fit_by_lightning
from tests.support.mounts import file_system
from tests.support.processes import run
from tests.support.quiet import QUIET
from yolo_lightning.runs.checkpoint_files import fault

BALLAST = "TEST_BALLAST"


class FillsTheDisk(Callback):
    """Takes the last byte of the disk when the second epoch begins."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch != 1 or not trainer.is_global_zero:
            return
        trainer.strategy.checkpoint_io.wait()  # type: ignore[attr-defined]
        with open(os.environ[BALLAST], "wb", buffering=0) as file:
            size = 2**20
            while size:
                try:
                    file.write(bytes(size))
                except OSError:
                    size //= 2


class SetsTheClock(Callback):
    """Sets the clock back by a day in the second epoch, and forward in the third; the fourth lacks memory."""

    def __init__(self) -> None:
        self.right = time.time

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        shift_s = {1: -86_400, 2: 172_800}.get(trainer.current_epoch, 0)
        time.time = lambda: self.right() + shift_s
        if trainer.current_epoch == 3:
            resource.setrlimit(resource.RLIMIT_AS, (2**30, resource.RLIM_INFINITY))
            torch.empty(2**30)


def options(shapes: Path, runs: Path, *more: str) -> list[str]:
    return [
        "fit", f"--data.root={shapes}", "--data.image_size=64", "--data.batch_size=4", "--data.num_workers=0",
        "--model.compile=false", "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.max_epochs=5",
        "--trainer.precision=32-true", "--model.channels_last=false", f"--runs_dir={runs}", *more,
    ]  # fmt: skip


def error_in(written: str) -> str:
    """The only error of a run."""
    assert "Traceback" not in written
    [sentence] = [line for line in written.splitlines() if line.startswith("error: ")]
    return sentence


def test_a_disk_without_a_byte_ends_a_run_that_draws_and_logs(shapes: Path, tmp_path: Path) -> None:
    """Rank zero cannot write metrics.csv, which is no checkpoint; the other rank ends with it."""
    more = ("--trainer.callbacks+=tests.integration.test_exhaustion.FillsTheDisk", "--trainer.devices=2")
    with file_system(tmp_path, "200m"):
        ballast = {BALLAST: str(tmp_path / "ballast")}
        statuses, written = run(options(shapes, tmp_path, *more), ranks=2, environment=ballast)
        assert statuses == [2, 2], written[-3000:]
        sentence = error_in(written)
        assert sentence.endswith("No space left on device; make room and resume with --ckpt_path last")
        assert str(tmp_path / "fit" / "version_0") in sentence
        checkpoints = tmp_path / "fit" / "version_0" / "checkpoints"
        assert [fault(checkpoints / name) for name in ("best.ckpt", "last.ckpt")] == [None, None]


def test_the_clock_does_not_count_and_memory_that_ends_is_told(shapes: Path, tmp_path: Path) -> None:
    more = (
        "--trainer.callbacks+=tests.integration.test_exhaustion.SetsTheClock",
        "--trainer.max_time=00:12:00:00",
    )
    began = time.monotonic()
    [status], written = run(options(shapes, tmp_path, *more, *QUIET))
    took_s = time.monotonic() - began
    assert status == 2, written[-3000:]
    sentence = error_in(written)
    assert sentence.startswith("error: memory is used up (4,295.0 MB asked for, this process holds ")
    assert "of the 1.07 GB of addresses of ulimit -v), with batches of 4 images of 64 px; give " in sentence
    assert sentence.endswith(", and resume with --ckpt_path last")
    version = tmp_path / "fit" / "version_0"
    assert fault(version / "checkpoints" / "last.ckpt") is None
    with (version / "metrics.csv").open() as file:
        walls = [float(row["wall_seconds"]) for row in csv.DictReader(file)]
    assert len(walls) == 3 and 0 < walls[0] < walls[1] < walls[2] < took_s
    budget = json.loads((version / "time_budget.json").read_text())
    assert all(seconds >= 0 for seconds in budget["seconds"].values())
    assert sum(budget["seconds"].values()) == pytest.approx(budget["wall_seconds"])


def test_a_killed_process_of_lightnings_launcher_ends_the_run_with_one_sentence(
    shapes: Path, tmp_path: Path
) -> None:
    """With a loader worker, which lives a little longer than its process and holds its connections open."""
    place = "{number: SIGKILL, epoch: 1, batch: 1, rank: 1}"
    more = (
        f"--trainer.callbacks=[{{class_path: tests.support.signals.SignalAt, init_args: {place}}}]",
        "--data.num_workers=1", "--data.cache=none", "--data.batch_size=2", "--trainer.devices=2",
        "--trainer.strategy=ddp", *QUIET,
    )  # fmt: skip
    [status], written = fit_by_lightning(options(shapes, tmp_path, *more))
    assert status == 2, written[-3000:]
    sentence = error_in(written)
    assert sentence.startswith("error: rank 1 on ")
    assert "): was killed or died in epoch 2, batch 2; see its log, and dmesg if" in sentence
    assert sentence.endswith("; the run ends on all ranks, resume with --ckpt_path last")
    assert fault(tmp_path / "fit" / "version_0" / "checkpoints" / "last.ckpt") is None
