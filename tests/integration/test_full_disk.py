"""A whole run whose disk fills in its third epoch, and that goes on once there is room again."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.support.mounts import file_system
from tests.support.processes import run
from yolo_lightning.runs.checkpoint_files import fault
from yolo_lightning.runs.checkpoint_io import RunCheckpointIO

HOW = "TEST_DISK_FILLS"
"""Environment variable: ``limit``, ``limit at once``, or the file that fills the disk; a resumed run has the
callback too."""


class DiskFills(Callback):
    """Takes the room away when the second epoch is saved and the third begins, or before the first."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        how = os.environ.get(HOW)
        if not how or trainer.current_epoch != (0 if how == "limit at once" else 2):
            return
        io = trainer.strategy.checkpoint_io
        assert isinstance(io, RunCheckpointIO)
        io.wait()
        if how.startswith("limit"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
            return
        status = os.statvfs(Path(how).parent)
        with open(how, "wb") as file:  # one megabyte is left: small files go on being written
            for _ in range(status.f_bfree * status.f_frsize // 2**20 - 1):
                file.write(bytes(2**20))


@pytest.fixture(params=["limit", "disk"])
def runs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Folder of the runs, and how its disk is filled."""
    folder = tmp_path / "runs"
    folder.mkdir()
    if request.param == "limit":
        yield folder, "limit"
        return
    with file_system(folder, "300m"):
        yield folder, str(folder / "ballast")


def epochs_in(path: Path) -> int:
    """Whole epochs that a checkpoint has seen."""
    contents = torch.load(path, weights_only=True)
    return int(contents["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])


def options(shapes: Path, folder: Path) -> list[str]:
    return [
        f"--data.root={shapes}", "--data.image_size=64", "--data.batch_size=4", "--data.num_workers=0",
        "--model.compile=false", "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.max_epochs=4",
        "--trainer.precision=32-true", "--model.channels_last=false", f"--runs_dir={folder}",
        "--trainer.callbacks+=tests.integration.test_full_disk.DiskFills",
    ]  # fmt: skip


def test_a_full_disk_ends_all_ranks_with_one_sentence(shapes: Path, tmp_path: Path) -> None:
    """Only rank zero writes; the others must not wait for it in the save, which waits for a new file."""
    argv = ["fit", *options(shapes, tmp_path), "--trainer.devices=2"]
    statuses, written = run(argv, ranks=2, environment={HOW: "limit at once"})
    assert statuses == [2, 2], written[-3000:]
    [sentence] = [line for line in written.splitlines() if line.startswith("error: ")]
    assert "see ulimit -f" in sentence and "Traceback" not in written
    assert "there is no earlier checkpoint" in sentence


def test_a_full_disk_ends_the_run_with_a_sentence_and_it_goes_on_later(
    runs: tuple[Path, str], shapes: Path
) -> None:
    folder, how = runs
    [status], written = run(["fit", *options(shapes, folder)], environment={HOW: how})
    assert status == 2, written[-3000:]
    [sentence] = [line for line in written.splitlines() if line.startswith("error: ")]
    checkpoints = folder / "fit" / "version_0" / "checkpoints"
    reason = "see ulimit -f" if how == "limit" else "the disk is full"
    assert reason in sentence and ".ckpt: cannot be written" in sentence
    assert "the earlier checkpoints are whole, make room and resume with --ckpt_path" in sentence
    assert "Traceback" not in written
    left = {file.name for file in checkpoints.iterdir()}
    assert left == {"best.ckpt", "last.ckpt", "last.previous.ckpt"}
    assert [fault(checkpoints / name) for name in left] == [None] * 3
    trained = [epochs_in(checkpoints / name) for name in ("last.ckpt", "last.previous.ckpt")]
    assert trained == [2, 1]
    advised = Path(sentence.split("--ckpt_path ")[1])
    assert advised in {checkpoints / name for name in left} and epochs_in(advised) == 2

    if how != "limit":
        Path(how).unlink()
    [status], written = run(["fit", "--ckpt_path=last", "--trust_config", f"--runs_dir={folder}"])
    assert status == 0, written[-3000:]
    assert epochs_in(checkpoints / "last.ckpt") == 4
    assert len((checkpoints.parent / "metrics.csv").read_text().splitlines()) == 5
