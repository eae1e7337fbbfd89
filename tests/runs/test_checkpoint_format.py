from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from yolo_lightning.errors import InputError
from yolo_lightning.runs.checkpoint_format import (
    FORMAT_VERSION,
    keep_own_paths,
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


HOSTILE_PATHS = (
    *("local://{}", "file://{}", "memory://{}", "{}", "{}/mine.ckpt", "{}/../outside/mine.ckpt", "own/a.txt"),
    *("../outside/mine.ckpt", "own/folder.ckpt", "own/gone.ckpt", "own/link.ckpt", "~", "", "\0", "x" * 9999),
)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The folder of a callback's checkpoints, and another with the user's files beside it."""
    own, outside = tmp_path / "own", tmp_path / "outside"
    (own / "folder.ckpt").mkdir(parents=True)
    outside.mkdir()
    for path in (own / "a.ckpt", own / "b.ckpt", own / "a.txt", outside / "mine.ckpt"):
        path.write_text("")
    (own / "link.ckpt").symlink_to(outside / "mine.ckpt")
    return own


@pytest.mark.parametrize("pattern", HOSTILE_PATHS)
def test_no_path_but_of_its_own_files_reaches_a_callback(
    pattern: str, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own.parent)
    path = pattern.format(own.parent / "outside")
    for text in (path, str(own.parent / path) if path and "://" not in path else path):
        callback = ModelCheckpoint(dirpath=own)
        score = torch.tensor(1.0)
        state = {"best_model_score": score, "best_k_models": {text: score}, "dirpath": callback.dirpath}
        state |= dict.fromkeys(("best_model_path", "last_model_path", "kth_best_model_path"), text)
        keep_own_paths({"callbacks": {callback.state_key: state}}, [callback])
        callback.load_state_dict(state)
        found = callback.best_model_path, callback.last_model_path, callback.kth_best_model_path
        assert (*found, callback.best_k_models) == ("", "", "", {})


@pytest.mark.parametrize("value", [None, 7, [], {}, ["a"], torch.zeros(2)])
def test_what_is_no_path_is_none(value: Any, own: Path) -> None:
    callback = ModelCheckpoint(dirpath=own)
    names = ("best_k_models", "best_model_path", "last_model_path", "kth_best_model_path")
    state = dict.fromkeys(names, value)
    keep_own_paths({"callbacks": {callback.state_key: state}}, [callback])
    assert [state[name] for name in names] == [{}, "", "", ""]
    keep_own_paths({"callbacks": {callback.state_key: value}}, [callback])


def test_a_callback_keeps_its_own_files(own: Path) -> None:
    callback = ModelCheckpoint(dirpath=own)
    a, b = str(own / "a.ckpt"), str(own / "b.ckpt")
    state = {"best_k_models": {a: 1, b: 2}, "best_model_path": b, "last_model_path": b}
    whole = state | {"kth_best_model_path": a}
    changed = {callback.state_key: state | {"kth_best_model_path": "local://x"}}
    keep_own_paths({"callbacks": changed}, [callback])
    assert changed == {callback.state_key: whole}
