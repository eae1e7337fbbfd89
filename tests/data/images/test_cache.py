from __future__ import annotations

import errno
import fcntl
import os
import pickle
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from tests.support.tiny_data import coco_document, write_coco, write_image
from yolo_lightning.data import cache_folder
from yolo_lightning.data.annotations.coco import CocoReader
from yolo_lightning.data.annotations.index import DatasetIndex
from yolo_lightning.data.cache_folder import FOLDER, disk_folder, free_bytes
from yolo_lightning.data.images import cache as cache_room
from yolo_lightning.data.images.cache import cache_path, open_cache
from yolo_lightning.data.images.decode import draw, read_bytes
from yolo_lightning.data.loading.dataset import DetectionDataset
from yolo_lightning.errors import InputError
from yolo_lightning.system.files import temporary_name


@pytest.fixture
def index(tmp_path: Path) -> DatasetIndex:
    return CocoReader(write_coco(tmp_path, coco_document()), "train").read()


def _decoded(index: DatasetIndex, i: int) -> np.ndarray:
    """Image i as training sees it at 32 px."""
    canvas = np.empty((32, 32, 3), np.uint8)
    draw(read_bytes(index.path(i)), index.path(i), tuple(index.sizes[i]), (32, 32), True, canvas)
    return canvas


def _files(folder: Path) -> list[str]:
    """What lies in a folder of caches, but for the file that is locked."""
    return sorted(path.name for path in folder.iterdir() if path.name != "lock")


@pytest.mark.parametrize("mode", ["ram", "disk"])
@pytest.mark.parametrize("train", [True, False])
def test_cached_samples_equal_decoded_ones(
    index: DatasetIndex, mode: Literal["ram", "disk"], train: bool
) -> None:
    said: list[str] = []
    cache = open_cache(index, (32, 32), train, mode, said.append)
    try:
        cached, decoded = (DetectionDataset(index, (32, 32), 16, train, c) for c in (cache, None))
        for i in range(3):
            np.testing.assert_array_equal(cached[i].image, decoded[i].image)
            np.testing.assert_array_equal(pickle.loads(pickle.dumps(cache)).pixels[i], cache.pixels[i])
        assert len(said) == 1 and "3 images at 32 px" in said[0] and str(cache.path) in said[0]
        assert cache.path.stat().st_size == 3 * (32 * 32 * 3 + 1)
        assert len(pickle.dumps(cache)) < 1000
        open_cache(index, (32, 32), train, mode, said.append)
        assert len(said) == 1  # found, not built again
    finally:
        cache.path.unlink()


def test_name_follows_everything_that_the_pixels_depend_on(index: DatasetIndex) -> None:
    sizes = (32, 32), (64, 64), (32, 64), (64, 32)
    names = {cache_path(index, size, train, "disk").name for size in sizes for train in (True, False)}
    assert len(names) == 8
    first = open_cache(index, (32, 32), True, "disk")
    write_image(index.path(1), seed=99)
    os.utime(index.path(1), ns=(1, 1))
    second = open_cache(index, (32, 32), True, "disk")
    assert second.path not in (first.path, *names)
    np.testing.assert_array_equal(second.pixels[1], _decoded(index, 1))
    assert _files(second.path.parent) == [second.path.name]  # the stale one is gone


def test_an_interrupted_build_leaves_nothing_to_trust(
    index: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cache_path(index, (32, 32), True, "disk")
    with monkeypatch.context() as patch:

        def interrupt(*_: object) -> None:
            signal.raise_signal(signal.SIGINT)

        patch.setattr(cache_room, "draw", interrupt)
        with pytest.raises(KeyboardInterrupt):
            open_cache(index, (32, 32), True, "disk")
    assert _files(path.parent) == []
    path.write_bytes(b"too short")
    assert open_cache(index, (32, 32), True, "disk").pixels[0].any()


def test_unreadable_image_is_named(index: DatasetIndex) -> None:
    index.path(2).write_text("broken")
    with pytest.raises(InputError, match=r"c\.png: not a readable image"):
        open_cache(index, (32, 32), True, "disk")
    assert _files(cache_path(index, (32, 32), True, "disk").parent) == []
    index.path(2).unlink()
    with pytest.raises(InputError, match=r"c\.png: the image cannot be read \(No such file"):
        open_cache(index, (32, 32), True, "disk")


@pytest.mark.parametrize("mode", ["ram", "disk"])
def test_too_little_room_is_said_before_writing(
    index: DatasetIndex, mode: Literal["ram", "disk"], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(cache_folder.shutil, "disk_usage", lambda _: usage(1, 1, 9215))
    said: list[str] = []
    with pytest.raises(InputError, match=r"needs 0\.0 GB but 0\.0 GB are free; .*--data\.cache"):
        open_cache(index, (32, 32), True, mode, said.append)
    assert not said and not cache_path(index, (32, 32), True, mode).exists()


def test_the_announcement_tells_size_and_room(index: DatasetIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(cache_folder.shutil, "disk_usage", lambda _: usage(1, 1, 71_230_000_000))
    said: list[str] = []
    cache = open_cache(index, (1024, 1024), True, "disk", said.append)
    # 3 x 3 x 1024^2 bytes are 9.4 MB.
    assert said == [f"caching 3 images at 1024 px in {cache.path}: 0.01 GB of 71.2 GB free"]


def test_room_is_that_of_the_folder_above_while_there_is_none(
    index: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    asked: list[Path] = []
    monkeypatch.setattr(cache_folder.shutil, "disk_usage", lambda path: asked.append(path) or usage(9, 2, 7))
    assert free_bytes(index.root / "not" / "yet", "disk") == 7 and asked == [index.root]
    monkeypatch.setattr(cache_folder, "available_memory", lambda: 5)
    assert free_bytes(index.root, "ram") == 5 and free_bytes(index.root, "disk") == 7


def test_a_full_disk_leaves_nothing(index: DatasetIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = cache_path(index, (32, 32), True, "disk").parent
    with monkeypatch.context() as patch:
        patch.setattr(cache_room.os, "posix_fallocate", full)
        with pytest.raises(
            InputError,
            match=r"cannot be written \(No space left on device\); make room or set --data\.cache none",
        ) as error:
            open_cache(index, (32, 32), True, "disk")
    assert str(error.value).startswith(f"{folder}: ")
    assert _files(folder) == []
    np.testing.assert_array_equal(open_cache(index, (32, 32), True, "disk").pixels[2], _decoded(index, 2))


def test_a_folder_that_cannot_be_made_is_named(index: DatasetIndex) -> None:
    (index.root / FOLDER).write_text("a file")
    with pytest.raises(
        InputError,
        match=r"\.yolo_lightning_cache: the cache cannot be made there \(.*, or --data\.cache none",
    ):
        open_cache(index, (32, 32), True, "disk")


def test_pixels_are_all_images_and_read_only(index: DatasetIndex) -> None:
    pixels = open_cache(index, (32, 32), True, "disk").pixels
    assert pixels.shape == (3, 32, 32, 3) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, [_decoded(index, i) for i in range(3)])
    with pytest.raises(ValueError, match="read-only"):
        pixels[0] = 0


def test_data_marked_read_only_is_not_written_to(
    index: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = index.root.parent / f"{index.root.name}_home"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    before = sorted(index.root.iterdir())
    index.root.chmod(0o555)  # root may write all the same, and must not
    try:
        cache = open_cache(index, (32, 32), True, "disk")
        assert cache.path.parent == home / "yolo_lightning" and cache.path.is_file()
        assert sorted(index.root.iterdir()) == before
    finally:
        index.root.chmod(0o755)


def test_read_only_data_caches_in_the_users_folder(
    index: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = index.root / "home"
    home.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.setattr(cache_folder.os, "access", lambda path, mode: False)
    assert cache_path(index, (32, 32), True, "disk").parent == home / "yolo_lightning"


def test_shared_memory_is_given_back_at_exit(index: DatasetIndex) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from yolo_lightning.data.annotations.coco import CocoReader\n"
        "from yolo_lightning.data.images.cache import open_cache\n"
        "cache = open_cache(CocoReader(Path(sys.argv[1]), 'train').read(), (32, 32), True, 'ram')\n"
        "assert cache.path.is_file(); print(cache.path)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(index.source)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert Path(done.stdout.strip()).suffix == ".uint8" and not Path(done.stdout.strip()).exists()


def test_what_killed_builds_left_takes_no_room(index: DatasetIndex) -> None:
    path = cache_path(index, (32, 32), True, "disk")
    path.parent.mkdir(parents=True)
    left = temporary_name(path)
    dead = left.with_name(left.name.replace(f"-{os.getpid()}-", "-999999999-"))
    dead.write_bytes(b"half")
    open_cache(index, (32, 32), True, "disk")
    assert _files(path.parent) == [path.name]


def test_where_there_are_no_locks_two_builds_do_not_meet(
    index: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = cache_path(index, (32, 32), True, "disk")
    path.parent.mkdir(parents=True)
    unfinished = path.with_name(f".{path.name}.elsewhere-77-0123abcd-0.tmp")
    unfinished.write_bytes(b"of a build that goes on")
    cache = open_cache(index, (32, 32), True, "disk")
    for i in range(3):
        np.testing.assert_array_equal(cache.pixels[i], _decoded(index, i))
    assert unfinished.read_bytes() == b"of a build that goes on"


def test_a_whole_cache_needs_no_lock(index: DatasetIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    path = open_cache(index, (32, 32), True, "disk").path
    (path.parent / "lock").unlink()
    (path.parent / "lock").mkdir()  # cannot be opened
    np.testing.assert_array_equal(open_cache(index, (32, 32), True, "disk").pixels[1], _decoded(index, 1))
    with pytest.raises(InputError, match="the cache cannot be made there"):
        open_cache(index, (64, 64), True, "disk")


def test_another_folder_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLO_LIGHTNING_CACHE", str(tmp_path / "scratch"))
    assert disk_folder(tmp_path) == tmp_path / "scratch"
    monkeypatch.setenv("YOLO_LIGHTNING_CACHE", "")
    assert disk_folder(tmp_path) == tmp_path / FOLDER


@pytest.mark.parametrize("named", ["$OWN_DISK/images", "${OWN_DISK}/images"])
def test_variables_in_its_name_are_those_of_this_machine(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YOLO_LIGHTNING_CACHE", named)
    monkeypatch.setenv("OWN_DISK", str(tmp_path / "disk"))
    assert disk_folder(tmp_path) == tmp_path / "disk" / "images"
    monkeypatch.delenv("OWN_DISK")
    with pytest.raises(InputError, match=r"YOLO_LIGHTNING_CACHE is \S+/images, but \S+ is not set on "):
        disk_folder(tmp_path)
