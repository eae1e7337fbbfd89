from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from tests.tiny_data import coco_document, write_coco, write_image
from yolo_lightning.data import cache as cache_room
from yolo_lightning.data.cache import cache_path, open_cache
from yolo_lightning.data.coco import read_coco
from yolo_lightning.data.dataset import DetectionDataset
from yolo_lightning.data.decode import load_letterboxed
from yolo_lightning.data.index import DatasetIndex
from yolo_lightning.errors import InputError


@pytest.fixture
def index(tmp_path: Path) -> DatasetIndex:
    return read_coco(write_coco(tmp_path, coco_document()), "train")


@pytest.mark.parametrize("mode", ["ram", "disk"])
@pytest.mark.parametrize("train", [True, False])
def test_cached_samples_equal_decoded_ones(
    index: DatasetIndex, mode: Literal["ram", "disk"], train: bool
) -> None:
    said: list[str] = []
    cache = open_cache(index, 32, train, mode, said.append)
    try:
        cached, decoded = (DetectionDataset(index, 32, 16, train, c) for c in (cache, None))
        for i in range(3):
            np.testing.assert_array_equal(cached[i].image, decoded[i].image)
            np.testing.assert_array_equal(pickle.loads(pickle.dumps(cache))[i], cache[i])
        assert len(said) == 1 and "3 images at 32 px" in said[0] and str(cache.path) in said[0]
        assert cache.path.stat().st_size == 3 * 32 * 32 * 3
        assert len(pickle.dumps(cache)) < 1000
        open_cache(index, 32, train, mode, said.append)
        assert len(said) == 1  # found, not built again
    finally:
        cache.path.unlink()


def test_name_follows_everything_that_the_pixels_depend_on(index: DatasetIndex) -> None:
    names = {cache_path(index, size, train, "disk").name for size in (32, 64) for train in (True, False)}
    assert len(names) == 4
    first = open_cache(index, 32, True, "disk")
    write_image(index.path(1), seed=99)
    os.utime(index.path(1), ns=(1, 1))
    second = open_cache(index, 32, True, "disk")
    assert second.path not in (first.path, *names)
    np.testing.assert_array_equal(second[1], load_letterboxed(index.path(1), 32, True)[0])
    assert [path.name for path in second.path.parent.iterdir()] == [second.path.name]  # the stale one is gone


def test_an_interrupted_build_leaves_nothing_to_trust(
    index: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cache_path(index, 32, True, "disk")
    with monkeypatch.context() as patch:

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(cache_room, "load_letterboxed", interrupt)
        with pytest.raises(KeyboardInterrupt):
            open_cache(index, 32, True, "disk")
    assert list(path.parent.iterdir()) == []
    path.write_bytes(b"too short")
    assert open_cache(index, 32, True, "disk")[0].any()


def test_unreadable_image_is_named(index: DatasetIndex) -> None:
    index.path(2).write_text("broken")
    with pytest.raises(InputError, match=r"c\.png: not a readable image"):
        open_cache(index, 32, True, "disk")


@pytest.mark.parametrize("mode", ["ram", "disk"])
def test_too_little_room_is_said_before_writing(
    index: DatasetIndex, mode: Literal["ram", "disk"], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(cache_room.shutil, "disk_usage", lambda _: usage(1, 1, 9215))
    said: list[str] = []
    with pytest.raises(InputError, match=r"needs 0\.0 GB but 0\.0 GB are free; .*--data\.cache"):
        open_cache(index, 32, True, mode, said.append)
    assert not said and not cache_path(index, 32, True, mode).exists()


def test_read_only_data_caches_in_the_users_folder(
    index: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = index.root / "home"
    home.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.setattr(cache_room.os, "access", lambda path, mode: False)
    assert cache_path(index, 32, True, "disk").parent == home / "yolo_lightning"


def test_shared_memory_is_given_back_at_exit(index: DatasetIndex) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from yolo_lightning.data.coco import read_coco\n"
        "from yolo_lightning.data.cache import open_cache\n"
        "cache = open_cache(read_coco(Path(sys.argv[1]), 'train'), 32, True, 'ram')\n"
        "assert cache.path.is_file(); print(cache.path)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(index.source)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert Path(done.stdout.strip()).suffix == ".uint8" and not Path(done.stdout.strip()).exists()
