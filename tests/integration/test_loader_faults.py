"""Whole runs whose images or loader workers fail in the middle."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.support.processes import run
from tests.support.quiet import QUIET
from yolo_lightning.data.images import waiting
from yolo_lightning.runs.checkpoint_files import fault

WHAT = "TEST_WHAT_FAILS"
"""Environment variable: the name of a method of ``Fails``, and the folder of the data set."""


class Fails(Callback):
    """Breaks something at the start of the second epoch."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        waiting.SAY_AFTER_S, waiting.POLL_S = 1.0, 1

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        what, _, root = os.environ[WHAT].partition(" ")
        if trainer.current_epoch == 1:
            getattr(self, what)(trainer, Path(root))

    def nothing(self, trainer: Trainer, root: Path) -> None:
        pass

    def damage(self, trainer: Trainer, root: Path) -> None:
        _image(root, "train", 1).unlink()
        for path in (_image(root, "train", 0), _image(root, "val", 0)):
            path.write_bytes(path.read_bytes()[:-200])

    def delete_many(self, trainer: Trainer, root: Path) -> None:
        for _ in range(4):
            _image(root, "train", 0).unlink()

    def unmount(self, trainer: Trainer, root: Path) -> None:
        shutil.rmtree(root)

    def kill(self, trainer: Trainer, root: Path) -> None:
        os.kill(self._worker(trainer), signal.SIGKILL)

    def stop(self, trainer: Trainer, root: Path) -> None:
        worker = self._worker(trainer)
        os.kill(worker, signal.SIGSTOP)
        threading.Timer(5, os.kill, (worker, signal.SIGCONT)).start()

    def stop_for_ever(self, trainer: Trainer, root: Path) -> None:
        waiting.GIVE_UP_S = 4.0
        os.kill(self._worker(trainer), signal.SIGSTOP)

    def hang(self, trainer: Trainer, root: Path) -> None:
        waiting.GIVE_UP_S = 4.0
        path = _image(root, "train", 2)
        path.unlink()
        os.mkfifo(path)  # opening it waits for a writer for ever, as a dead network mount does

    def _worker(self, trainer: Trainer) -> int:
        loader = trainer.datamodule._train_loader  # type: ignore[attr-defined]
        return int(loader._results._workers[0].pid)


def _image(root: Path, split: str, n: int) -> Path:
    return sorted((root / "images" / split).iterdir())[n]


Fit = Callable[..., tuple[int, str]]


@pytest.fixture
def fit(shapes: Path, tmp_path: Path) -> Fit:
    """Run fit on a copy of the data set; gives the exit status and the output."""
    root = tmp_path / "data set"

    def call(what: str, workers: int) -> tuple[int, str]:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(shapes, root)
        arguments = [
            "fit", f"--data.root={root}", "--data.image_size=64", "--data.batch_size=4", "--data.cache=none",
            f"--data.num_workers={workers}", "--model.compile=false", "--trainer.accelerator=cpu",
            "--trainer.devices=1", "--trainer.max_epochs=3", "--trainer.precision=32-true", *QUIET,
            "--data.max_skipped=0.3", f"--runs_dir={tmp_path / 'runs'}",
            "--trainer.callbacks+=tests.integration.test_loader_faults.Fails",
        ]  # fmt: skip
        [status], written = run(arguments, environment={WHAT: f"{what} {root}"})
        assert "Traceback" not in written, written[-3000:]
        assert status is not None
        return status, written

    return call


def _left_out(tmp_path: Path) -> list[list[str]]:
    with (tmp_path / "runs/fit/version_0/left_out.csv").open() as file:
        return list(csv.reader(file))


def _ends_with(fit: Fit, tmp_path: Path, what: str, workers: int, *words: str) -> None:
    """The run ends with one sentence, and what it saved before loads."""
    status, written = fit(what, workers)
    [sentence] = [line for line in written.splitlines() if line.startswith("error: ")]
    assert status == 2 and "resume with --ckpt_path last" in sentence
    assert all(word in sentence for word in words), sentence
    assert fault(tmp_path / "runs/fit/version_0/checkpoints/last.ckpt") is None


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_fail_in_mid_run_are_left_out(fit: Fit, tmp_path: Path, workers: int) -> None:
    status, written = fit("damage", workers)
    assert status == 0
    rows = _left_out(tmp_path)
    assert rows[0] == ["where", "what", "remedy", "image"]
    truncated = "the image is truncated", "replace or remove it"
    expected = [
        ("train", "000001.jpg", *truncated),
        ("train", "000002.jpg", "the image cannot be read (No such file or directory)", "check the path"),
        ("val", "000001.jpg", *truncated),
    ]
    for (split, name, what, remedy), row in zip(expected, rows[1:], strict=True):
        path = str(tmp_path / "data set/images" / split / name)
        assert row == [path, what, remedy, path]
        assert written.count(f"left out of {split}: {path}: {what}; {remedy}") == 1


def test_too_many_deleted_images_end_the_run(fit: Fit, tmp_path: Path) -> None:
    _ends_with(fit, tmp_path, "delete_many", 1, "of the 10 train images", "more than data.max_skipped 0.3")


def test_a_folder_that_is_gone_is_named(fit: Fit, tmp_path: Path) -> None:
    _ends_with(fit, tmp_path, "unmount", 1, f"{tmp_path / 'data set'}: the folder of the", "is gone")
    assert not (tmp_path / "runs/fit/version_0/left_out.csv").exists()


def test_a_killed_worker_is_replaced(fit: Fit, tmp_path: Path) -> None:
    status, written = fit("kill", 1)
    assert status == 0
    assert "has ended by SIGKILL, as the kernel does if memory runs out" in written
    with_loss = (tmp_path / "runs/fit/version_0/metrics.csv").read_text()
    assert fit("nothing", 1)[0] == 0
    without = (tmp_path / "runs/fit/version_1/metrics.csv").read_text()
    timeless = [[row.split(",")[:8] for row in table.splitlines()] for table in (with_loss, without)]
    assert timeless[0] == timeless[1]


def test_a_stopped_worker_is_named_and_goes_on(fit: Fit) -> None:
    status, written = fit("stop", 1)
    assert status == 0 and "is stopped, and goes on after kill -CONT" in written


def test_a_worker_that_stays_stopped_ends_the_run(fit: Fit, tmp_path: Path) -> None:
    _ends_with(fit, tmp_path, "stop_for_ever", 1, "loader worker", "is stopped")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_hangs_is_named(fit: Fit, tmp_path: Path, workers: int) -> None:
    _ends_with(fit, tmp_path, "hang", workers, "000003.jpg has been read for", "does not answer")
