"""Several processes and one index; processes that are killed, or have no room to write."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.tiny_data import write_yolo
from yolo_lightning.data.annotations import index_cache
from yolo_lightning.data.annotations.index import DatasetIndex
from yolo_lightning.data.annotations.source import DataSource
from yolo_lightning.data.annotations.yolo import YoloReader
from yolo_lightning.data.cache_folder import FOLDER

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork and locks")

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def source(tmp_path: Path) -> DataSource:
    write_yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.2\n", "b": "1 0.1 0.2 0.1 0.1\n" * 50})
    return DataSource(tmp_path)


def _files(root: Path) -> list[str]:
    return sorted(path.name for path in (root / FOLDER).glob("*") if path.name != "index.lock")


def _append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")


def _reading_and(note: Callable[[], None]) -> Callable[..., DatasetIndex]:
    read = YoloReader.read

    def noting(reader: YoloReader) -> DatasetIndex:
        note()
        return read(reader)

    return noting


def test_of_processes_that_come_at_once_one_reads(
    source: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, found = tmp_path / "reads", tmp_path / "found"

    def note() -> None:
        _append(reads, str(os.getpid()))
        time.sleep(0.5)  # the others are here long before it is read

    monkeypatch.setattr(YoloReader, "read", _reading_and(note))
    together = FORK.Barrier(3)

    def work() -> None:
        together.wait()
        index = source.read("train", keep=True)
        _append(found, f"{index.from_cache} {index.boxes.sum()}")

    processes = [FORK.Process(target=work) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(reads.read_text().splitlines()) == 1
    total = source.read("train").boxes.sum()
    assert sorted(found.read_text().splitlines()) == [f"False {total}", f"True {total}", f"True {total}"]


@pytest.mark.parametrize("moment", ["reading", "writing"])
def test_a_killed_process_leaves_no_lock_and_no_rest(
    source: DataSource, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "begun"

    def stop(*_: object, **__: object) -> None:
        begun.touch()
        time.sleep(600)

    with monkeypatch.context() as patch:
        if moment == "reading":
            patch.setattr(YoloReader, "read", stop)
        else:
            patch.setattr(index_cache.np, "savez", stop)
        process = FORK.Process(target=source.read, args=("train", True))
        process.start()
        assert process.pid is not None
        deadline = time.monotonic() + 60
        while not begun.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
    assert process.exitcode == -signal.SIGKILL and begun.exists()
    assert len(_files(tmp_path)) == (moment == "writing")  # the part of a file
    index = source.read("train", keep=True)
    assert not index.from_cache
    (name,) = _files(tmp_path)
    assert name.endswith(".npz")
    np.testing.assert_array_equal(source.read("train", keep=True).boxes, index.boxes)


def test_a_full_disk_costs_nothing_but_the_file(source: DataSource, tmp_path: Path) -> None:
    found = tmp_path / "found"
    expected = source.read("train")

    def work() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # in the middle of the file
        index = source.read("train", keep=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        np.testing.assert_array_equal(index.boxes, expected.boxes)
        _append(found, f"{index.from_cache} {_files(tmp_path)}")

    process = FORK.Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert found.read_text() == "False []\n"
    source.read("train", keep=True)
    (name,) = _files(tmp_path)
    assert (tmp_path / FOLDER / name).stat().st_size > 2000
    assert source.read("train", keep=True).from_cache
