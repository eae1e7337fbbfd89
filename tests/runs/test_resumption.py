from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from yolo_lightning.errors import InputError
from yolo_lightning.runs.resumption import read_resumption


def write(path: Path, epoch: dict[str, int], batches: int, completed: int | None = None, **more: Any) -> Path:
    loop = {
        "epoch_loop.state_dict": {"_batches_that_stepped": 14},
        "epoch_progress": {"current": epoch},
        "epoch_loop.batch_progress": {"current": {"processed": batches, "completed": completed}},
    }
    contents = {
        "hyper_parameters": {"seed": 3},
        "loops": {"fit_loop": loop},
        "callbacks": {},
        "global_step": 7,
    }
    torch.save(contents | more, path)
    return path


def test_at_the_end_of_an_epoch(tmp_path: Path) -> None:
    path = write(tmp_path / "last.ckpt", {"started": 2, "processed": 2}, 5)
    logged = {"RunRecorder": {"logged_step": 9}}
    other = write(tmp_path / "other.ckpt", {"started": 2, "processed": 2}, 5, callbacks=logged)
    assert read_resumption(other).purge_step == 9
    found = read_resumption(path)
    assert (found.epochs, found.batches, found.hyper_parameters, found.purge_step) == (2, 0, {"seed": 3}, 8)
    assert found.step == 7
    assert str(found) == f"checkpoint {path}, after epoch 2"
    found.check_epochs(2)
    found.check_epochs(-1)
    with pytest.raises(InputError, match=r"2 epochs already, more than --trainer\.max_epochs 1"):
        found.check_epochs(1)


def test_in_the_middle_of_one(tmp_path: Path) -> None:
    logged = {"RunRecorder": {"logged_step": 9}}
    path = write(tmp_path / "last.ckpt", {"started": 3, "processed": 2}, 5, callbacks=logged)
    found = read_resumption(path)
    assert (found.epochs, found.batches, found.purge_step) == (2, 5, 14)
    assert str(found) == f"checkpoint {path}, in epoch 3 after batch 5"


def test_before_a_validation(tmp_path: Path) -> None:
    """Whatever a validation has logged before it was left is going to come again, at the same step."""
    place = {"started": 3, "processed": 2}
    left = write(tmp_path / "left.ckpt", place, 5, within_epoch={"validates_first": True}, completed=5)
    found = read_resumption(left)
    assert (found.epochs, found.batches, found.purge_step) == (2, 5, 14)
    assert str(found) == f"checkpoint {left}, in epoch 3 after batch 5, before its validation"
    ended = write(tmp_path / "ended.ckpt", place, 5, within_epoch={}, completed=5)
    assert read_resumption(ended).purge_step == 15
    assert not read_resumption(ended).validates_first


def test_what_is_no_checkpoint_of_ours_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    (tmp_path / "torn.ckpt").write_bytes(b"PK")
    for name in ("other.ckpt", "torn.ckpt"):
        with pytest.raises(InputError, match="is damaged or is not a checkpoint of yolo-lightning"):
            read_resumption(tmp_path / name)
