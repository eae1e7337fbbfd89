"""Several processes and one cache; processes that are killed while they build."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tiny_data import image, write_coco
from yolo_lightning.data.annotations.coco import CocoReader
from yolo_lightning.data.annotations.index import DatasetIndex
from yolo_lightning.data.images import cache as cache_room
from yolo_lightning.data.images.cache import cache_path, open_cache
from yolo_lightning.data.images.decode import draw

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork and locks")

IMAGES = 8


@pytest.fixture
def index(tmp_path: Path) -> DatasetIndex:
    document = {
        "images": [image(i, f"{i}.png") for i in range(IMAGES)],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [],
    }
    return CocoReader(write_coco(tmp_path, document), "train").read()


def _expected(index: DatasetIndex) -> np.ndarray:
    canvases = np.empty((IMAGES, 32, 32, 3), np.uint8)
    for i in range(IMAGES):
        draw(index.path(i).read_bytes(), index.path(i), tuple(index.sizes[i]), (32, 32), True, canvases[i])
    return canvases


def _append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")


def _draw_and(note: Callable[[], None]) -> Callable[..., None]:
    def noting(*arguments: Any) -> None:
        draw(*arguments)
        note()

    return noting


def test_processes_that_come_at_once_build_it_once(
    index: DatasetIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, said, found = tmp_path / "drawn", tmp_path / "said", tmp_path / "found"

    def note() -> None:
        _append(drawn, str(os.getpid()))
        time.sleep(0.02)  # the others are here long before it is built

    monkeypatch.setattr(cache_room, "draw", _draw_and(note))
    context = multiprocessing.get_context("fork")
    together = context.Barrier(3)

    def work() -> None:
        together.wait()
        cache = open_cache(index, (32, 32), True, "disk", lambda line: _append(said, line))
        _append(found, str(int(cache.pixels.astype(np.int64).sum())))

    processes = [context.Process(target=work) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    builders = drawn.read_text().split()
    assert len(builders) == IMAGES and len(set(builders)) == 1
    assert len(said.read_text().splitlines()) == 1
    expected = _expected(index)
    assert found.read_text().split() == [str(int(expected.astype(np.int64).sum()))] * 3
    np.testing.assert_array_equal(open_cache(index, (32, 32), True, "disk").pixels, expected)


def test_what_a_killed_build_left_is_not_trusted(
    index: DatasetIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cache_path(index, (32, 32), True, "disk")
    begun = tmp_path / "begun"

    def stop() -> None:
        begun.touch()
        time.sleep(600)

    with monkeypatch.context() as patch:
        patch.setattr(cache_room, "draw", _draw_and(stop))
        builder = multiprocessing.get_context("fork").Process(
            target=open_cache, args=(index, (32, 32), True, "disk")
        )
        builder.start()
        assert builder.pid is not None
        deadline = time.monotonic() + 60
        while not begun.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(builder.pid, signal.SIGKILL)
        builder.join(60)
    assert builder.exitcode == -signal.SIGKILL and begun.exists()
    (part,) = path.parent.glob("*.tmp")
    assert part.stat().st_size == IMAGES * (32 * 32 * 3 + 1) and not path.exists()  # as large as a whole one
    np.testing.assert_array_equal(open_cache(index, (32, 32), True, "disk").pixels, _expected(index))
    assert path.is_file() and not part.exists()
