import errno
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

from yolo_lightning.runs import checkpoint_files as files
from yolo_lightning.runs import checkpoint_io as background
from yolo_lightning.runs.checkpoint_files import NoSpace, newest_whole, previous_path
from yolo_lightning.runs.checkpoint_io import RunCheckpointIO


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*(does not have many workers|logging interval|exists and).*"
        )
        yield


def trainer(folder: Path, io: RunCheckpointIO, *callbacks: Callback, epochs: int = 3) -> Trainer:
    return Trainer(
        default_root_dir=folder, accelerator="cpu", devices=1, max_epochs=epochs, plugins=[io], logger=False,
        callbacks=list(callbacks), limit_train_batches=2, limit_val_batches=1, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=None if callbacks else False,
    )  # fmt: skip


class BestCheckpoint(ModelCheckpoint):
    """Two of one class need different settings."""


def checkpoint(folder: Path, name: str = "last", kind: type[ModelCheckpoint] = ModelCheckpoint) -> Callback:
    return kind(dirpath=folder, filename=name, enable_version_counter=False, save_on_train_epoch_end=True)


def load(path: Path) -> dict[str, Any]:
    contents: dict[str, Any] = torch.load(path, weights_only=True)
    return contents


class Weights(Callback):
    """Remembers the weights at the end of each epoch, and which files there were when it was saved."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []
        self.files: list[set[str]] = []

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.seen.append(pl_module.state_dict()["layer.weight"].clone())

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        folder = Path(trainer.default_root_dir)
        self.files.append({file.name for file in folder.glob("*.ckpt")})


@pytest.mark.parametrize("in_background", [True, False])
def test_a_run_leaves_the_newest_checkpoint_and_the_one_before(in_background: bool, tmp_path: Path) -> None:
    io, weights = RunCheckpointIO(in_background), Weights()
    trainer(tmp_path, io, checkpoint(tmp_path), checkpoint(tmp_path, "best", BestCheckpoint), weights).fit(
        BoringModel()
    )
    last = tmp_path / "last.ckpt"
    assert (load(last)["epoch"], load(previous_path(last))["epoch"], io.saves) == (2, 1, 6)
    assert torch.equal(load(last)["state_dict"]["layer.weight"], weights.seen[-1])
    assert torch.equal(load(previous_path(last))["state_dict"]["layer.weight"], weights.seen[2])
    assert weights.files[1] == {"last.ckpt", "best.ckpt"}  # there at once, though it was their first time
    assert {file.name for file in tmp_path.iterdir()} == {"last.ckpt", "last.previous.ckpt", "best.ckpt"}
    assert io.stall_seconds > 0


def test_a_run_resumes_and_fits_again_with_the_same_trainer(tmp_path: Path) -> None:
    io = RunCheckpointIO()
    trainer(tmp_path, io, checkpoint(tmp_path), epochs=2).fit(BoringModel())
    again = trainer(tmp_path, RunCheckpointIO(), checkpoint(tmp_path), epochs=3)
    again.fit(BoringModel(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert load(tmp_path / "last.ckpt")["global_step"] == 6
    again.fit_loop.max_epochs = 4
    again.fit(BoringModel())
    assert load(tmp_path / "last.ckpt")["epoch"] == 3


def test_old_checkpoints_go_when_the_newer_ones_are_there(tmp_path: Path) -> None:
    top = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", monitor="train_loss", save_top_k=2)

    class Logs(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pl_module.log("train_loss", torch.tensor(5.0 - trainer.current_epoch))

    linked = ModelCheckpoint(dirpath=tmp_path / "linked", filename="{epoch}", save_last="link")
    trainer(tmp_path, RunCheckpointIO(), Logs(), top, linked, epochs=4).fit(BoringModel())
    assert {file.name for file in tmp_path.glob("*.ckpt")} == {"epoch=2.ckpt", "epoch=3.ckpt"}
    assert load(tmp_path / "linked" / "last.ckpt")["epoch"] == 3
    assert (tmp_path / "linked" / "last.ckpt").is_symlink()


class DiskFills(Callback):
    """From an epoch on there is no room. When it begins, and the next one does, no write is under way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
        self.monkeypatch, self.epoch = monkeypatch, epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        io: RunCheckpointIO = trainer.strategy.checkpoint_io  # type: ignore[assignment]
        if trainer.current_epoch == self.epoch:
            io.wait()
            self.monkeypatch.setattr(files, "_free_bytes", lambda _: 10)
        elif trainer.current_epoch == self.epoch + 1:  # or the next save would know nothing of it yet
            assert not io._pending[0].result(timeout=200) and io.failed


@pytest.mark.parametrize(("epoch", "ended_in"), [(1, 2), (3, 4)])
def test_a_disk_that_fills_ends_the_run(
    epoch: int, ended_in: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # at the next save, or where there is none, at the end of the run
    fills, last = DiskFills(monkeypatch, epoch), tmp_path / "last.ckpt"
    run = trainer(tmp_path, RunCheckpointIO(), checkpoint(tmp_path), fills, epochs=4)
    with pytest.raises(NoSpace, match="the disk is full"):
        run.fit(BoringModel())
    assert run.current_epoch == ended_in
    assert load(newest_whole(last, pytest.fail))["epoch"] == epoch - 1


def test_another_error_is_not_hidden_by_one_of_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fails(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 2:
                raise ZeroDivisionError("of the model")

    fills = DiskFills(monkeypatch, 1)
    run = trainer(tmp_path, RunCheckpointIO(), checkpoint(tmp_path), fills, Fails())
    with pytest.warns(UserWarning, match="the disk is full"), pytest.raises(ZeroDivisionError):
        run.fit(BoringModel())
    assert load(tmp_path / "last.ckpt")["epoch"] == 0


def test_wait_returns_when_the_file_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io, last = RunCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"n": 1}, last)
    synced: list[str] = []
    write = background.write

    def told(contents: Any, path: Any, keep_previous: bool) -> None:
        write(contents, path, keep_previous)
        synced.append(f"{Path(path).name} {contents['n']}")

    monkeypatch.setattr(background, "write", told)
    io.save_checkpoint({"n": 2}, os.fspath(last))
    io.wait()
    assert synced == ["last.ckpt 2"] and load(last) == {"n": 2} and not io.failed
    io.save_checkpoint({"n": 3}, last)
    assert io.load_checkpoint(last) == {"n": 3}  # what is under way is waited for
    io.save_checkpoint({"n": 4}, last)
    io.remove_checkpoint(last)
    assert not last.exists() and len(synced) == 3
    io.teardown()


def test_an_error_is_seen_without_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io, last = RunCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"n": 1}, last)

    def fail(_: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        io.save_checkpoint({"n": 2}, last)
        io._pending[0].result(timeout=60)
        assert io.failed
    with pytest.raises(NoSpace, match="quota is used up"):
        io.teardown()
    io.teardown()


def test_a_checkpoint_is_data_and_not_a_program(tmp_path: Path) -> None:
    io, path = RunCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"a": torch.ones(2), "path": tmp_path}, path)
    for weights_only in (None, True):
        with pytest.raises(Exception, match="Weights only load failed"):
            io.load_checkpoint(path, weights_only=weights_only)
    assert io.load_checkpoint(path, weights_only=False)["path"] == tmp_path
    with pytest.raises(FileNotFoundError):
        io.load_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(TypeError, match="storage_options"):
        io.save_checkpoint({}, path, storage_options={})
    io.teardown()


def test_a_path_of_another_kind_is_left_to_lightning(tmp_path: Path) -> None:
    io = RunCheckpointIO()
    io.save_checkpoint({"n": 1}, f"file://{tmp_path}/last.ckpt")
    assert io.load_checkpoint(f"file://{tmp_path}/last.ckpt") == {"n": 1} and io.saves == 0
    io.remove_checkpoint(f"file://{tmp_path}/last.ckpt")
    assert not list(tmp_path.iterdir())
