from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from yolo_lightning.data.annotations.findings import Finding
from yolo_lightning.runs import left_out as left_out_room
from yolo_lightning.runs.left_out import LEFT_OUT, LeftOutList

FIRST = Finding(
    "k", "/data/labels/a.txt:3", "class 9 is not one of 0 to 2", "correct it", "/data/a.jpg", True
)
SECOND = Finding("k", "=b.jpg", "the image is truncated", "replace or remove it", "=b.jpg", True)


def _trainer(*findings: Finding, rank: int = 0, ranks: int = 1) -> Any:
    data = SimpleNamespace(left_out=list(findings))
    return SimpleNamespace(datamodule=data, is_global_zero=rank == 0, world_size=ranks)


def _rows(folder: Path) -> list[list[str]]:
    with (folder / LEFT_OUT).open() as file:
        return list(csv.reader(file))


def test_the_list_has_what_was_found_before_and_during_the_run(tmp_path: Path) -> None:
    listing = LeftOutList(tmp_path)
    listing.on_fit_start(_trainer(), Any)
    assert not (tmp_path / LEFT_OUT).exists()
    listing.on_fit_start(_trainer(FIRST), Any)
    first = ["/data/labels/a.txt:3", "class 9 is not one of 0 to 2", "correct it", "/data/a.jpg"]
    assert _rows(tmp_path) == [["where", "what", "remedy", "image"], first]
    listing.on_exception(_trainer(FIRST, SECOND), Any, RuntimeError())
    # A spreadsheet would compute a name that begins like a formula.
    second = ["'=b.jpg", "the image is truncated", "replace or remove it", "'=b.jpg"]
    assert _rows(tmp_path)[1:] == [first, second]


def test_all_ranks_are_listed_by_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(found: list[list[Finding]], own: list[Finding]) -> None:
        found[:] = [own, [SECOND]]

    monkeypatch.setattr(left_out_room.distributed, "all_gather_object", gather)
    LeftOutList(tmp_path).on_train_epoch_end(_trainer(FIRST, rank=1, ranks=2), Any)
    assert not (tmp_path / LEFT_OUT).exists()
    LeftOutList(tmp_path).on_train_epoch_end(_trainer(FIRST, ranks=2), Any)
    assert len(_rows(tmp_path)) == 3


def test_data_of_another_kind_leaves_nothing_out(tmp_path: Path) -> None:
    trainer = _trainer()
    trainer.datamodule = None
    LeftOutList(tmp_path).on_train_epoch_end(trainer, Any)
    assert not (tmp_path / LEFT_OUT).exists()
