from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from yolo_lightning.errors import InputError
from yolo_lightning.runs.checkpoint_format import (
    FORMAT_VERSION,
    read_resumption,
    validate_first,
    write_within_epoch,
)
from yolo_lightning.runs.record import RunRecorder


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


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    place = {"started": 2, "processed": 2}
    known = write(tmp_path / "known.ckpt", place, 5, format_version=FORMAT_VERSION)
    assert read_resumption(known).epochs == 2
    newer = write(tmp_path / "newer.ckpt", place, 5, format_version=FORMAT_VERSION + 1)
    message = f"{newer}: has checkpoint format {FORMAT_VERSION + 1}, .* update yolo-lightning"
    with pytest.raises(InputError, match=message):
        read_resumption(newer)


def test_an_aborted_validation_is_saved_in_any_order_of_callbacks() -> None:
    found = []
    for validation_comes_first in (True, False):
        counts = {"ready": 4, "started": 4, "processed": 3, "completed": 3}
        validation = {"current": dict(counts), "total": dict(counts), "is_last_batch": True}
        loop = {"epoch_progress": {}, "epoch_loop.batch_progress": {}}
        loop["epoch_loop.val_loop.batch_progress"] = validation
        checkpoint: dict[str, Any] = {"loops": {"fit_loop": loop}}
        if validation_comes_first:
            validate_first(checkpoint, {"torch": 1})
        write_within_epoch(checkpoint, losses={}, random={"torch": 2})
        if not validation_comes_first:
            validate_first(checkpoint, {"torch": 1})
        found.append(checkpoint)
    assert found[0] == found[1]
    assert found[0]["within_epoch"] == {"losses": {}, "random": {"torch": 1}, "validates_first": True}
    assert validation["current"] == {"ready": 1, "started": 1, "processed": 0, "completed": 0}


def test_the_record_of_a_run_is_found_by_its_name(tmp_path: Path) -> None:
    assert RunRecorder(tmp_path).state_key == "RunRecorder"
