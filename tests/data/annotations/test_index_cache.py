from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.support.tiny_data import (
    annotation,
    coco_document,
    image,
    wait_for_a_tick,
    write_coco,
    write_image,
    write_yolo,
)
from yolo_lightning.data.annotations import index_cache
from yolo_lightning.data.annotations.coco import CocoReader
from yolo_lightning.data.annotations.index import Annotations, DatasetIndex, build_index
from yolo_lightning.data.annotations.index_cache import index_path, read_once
from yolo_lightning.data.annotations.reader import Classes, SplitReader
from yolo_lightning.data.annotations.source import DataSource
from yolo_lightning.data.annotations.summary import summarise
from yolo_lightning.data.annotations.yolo import YoloReader
from yolo_lightning.data.cache_folder import FOLDER
from yolo_lightning.errors import InputError

LABELS = {"a": "0 0.5 0.5 0.2 0.2\n1 0.9 0.9 0.4 0.4\n", "b": "", "c": None, "d": "1 0.1 0.2 0.1 0.1\n"}


def make_coco(root: Path) -> DataSource:
    """Images where they are looked for second, so that the first place is free for a change."""
    write_coco(root, coco_document(), name="train2017")
    (root / "images/train").rename(root / "train2017")
    (root / "images").rmdir()
    return DataSource(root)


def make_yolo(root: Path) -> DataSource:
    write_yolo(root, LABELS)
    return DataSource(root)


FORMATS = {"coco": make_coco, "yolo": make_yolo}


def kept(root: Path) -> list[str]:
    """What lies in the folder of caches, but for the file that is locked."""
    return sorted(path.name for path in (root / FOLDER).glob("*") if path.name != "index.lock")


def assert_equal(a: DatasetIndex, b: DatasetIndex) -> None:
    """In every field but where they come from."""
    for field in dataclasses.fields(DatasetIndex):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype and x.shape == y.shape, field.name
            np.testing.assert_array_equal(x, y, err_msg=field.name)
        elif field.name != "from_cache":
            assert x == y and type(x) is type(y), field.name


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_the_file_gives_what_the_reading_gave(make: Callable[[Path], DataSource], tmp_path: Path) -> None:
    source = make(tmp_path)
    fresh = source.read("train")
    assert not (tmp_path / FOLDER).exists()  # nothing is kept unasked
    first, second = source.read("train", keep=True), source.read("train", keep=True)
    assert len(kept(tmp_path)) == 1
    assert_equal(first, fresh)
    assert_equal(second, fresh)
    assert fresh.findings and [i.from_cache for i in (fresh, first, second)] == [0, 0, 1]
    said = [summarise(index, "train").splitlines() for index in (fresh, first, second)]
    assert said[0] == said[1] and said[1][1:] == said[2][1:]
    assert said[2][0] == said[0][0] + "; read from the cache"
    for i in range(len(fresh)):
        np.testing.assert_array_equal(second.labels(i), fresh.labels(i))
        assert second.path(i) == fresh.path(i)


def rewrite(path: Path, old: str, new: str) -> None:
    """Change a text and put its time back, as unpacking and copying can."""
    status, text = path.stat(), path.read_text()
    assert old in text
    wait_for_a_tick(path.parent)  # only st_ctime tells
    path.write_text(text.replace(old, new))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def move_images_to_first_place(root: Path) -> None:
    shutil.copytree(root / "train2017", root / "images/train2017")


def rename_a_class(root: Path) -> None:
    rewrite(root / "data.yaml", "cat", "cow")


COCO_CHANGES: dict[str, Callable[[Path], object]] = {
    "JSON touched": lambda root: touch(root / "annotations/instances_train2017.json"),
    "JSON edited": lambda root: rewrite(
        root / "annotations/instances_train2017.json", "[10, 10,", "[12, 11,"
    ),
    "images where they are looked for first": move_images_to_first_place,
}
YOLO_CHANGES: dict[str, Callable[[Path], object]] = {
    "label edited": lambda root: rewrite(root / "labels/train/a.txt", "0.5 0.5", "0.5 0.4"),
    "label longer": lambda root: rewrite(root / "labels/train/b.txt", "", "0 0.5 0.5 0.1 0.1"),
    "label touched": lambda root: touch(root / "labels/train/a.txt"),
    "label file added": lambda root: (root / "labels/train/c.txt").write_text("0 0.5 0.5 0.1 0.1"),
    "label file removed": lambda root: (root / "labels/train/a.txt").unlink(),
    "image added": lambda root: write_image(root / "images/train/e.png"),
    "image removed": lambda root: (root / "images/train/d.png").unlink(),
    "image renamed": lambda root: (root / "images/train/d.png").rename(root / "images/train/f.png"),
    "image of another size": lambda root: write_image(root / "images/train/a.png", 80, 20),
    "class renamed": rename_a_class,
}
CHANGES = [
    pytest.param(FORMATS[form], change, id=f"{form}: {name}")
    for form, changes in {"coco": COCO_CHANGES, "yolo": YOLO_CHANGES}.items()
    for name, change in changes.items()
]


@pytest.mark.parametrize(("make", "change"), CHANGES)
def test_a_change_is_seen(
    make: Callable[[Path], DataSource], change: Callable[[Path], object], tmp_path: Path
) -> None:
    source = make(tmp_path)
    source.read("train", keep=True)
    assert source.read("train", keep=True).from_cache
    change(tmp_path)
    changed = source.read("train", keep=True)
    assert not changed.from_cache
    assert_equal(changed, source.read("train"))
    again = source.read("train", keep=True)
    assert again.from_cache
    assert_equal(again, changed)
    assert len(kept(tmp_path)) == 1  # the stale one is gone


def test_a_coco_image_that_is_gone_is_missed_and_one_more_is_not_read(tmp_path: Path) -> None:
    source = make_coco(tmp_path)
    fresh = source.read("train", keep=True)
    write_image(tmp_path / "train2017/more.png")
    index = source.read("train", keep=True)
    assert index.from_cache
    assert_equal(index, fresh)
    gone = tmp_path / "train2017/b.png"
    gone.rename(tmp_path / "b.png")
    messages = []
    for keep in (False, True, True):
        with pytest.raises(InputError) as error:
            source.read("train", keep)
        messages.append(str(error.value))
    assert "b.png" in messages[0] and len(set(messages)) == 1
    (tmp_path / "b.png").rename(gone)
    assert_equal(source.read("train", keep=True), fresh)
    assert source.read("train", keep=True).from_cache


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_a_folder_that_was_moved_is_read_again(make: Callable[[Path], DataSource], tmp_path: Path) -> None:
    make(tmp_path / "one").read("train", keep=True)
    (tmp_path / "one").rename(tmp_path / "two")
    index = DataSource(tmp_path / "two").read("train", keep=True)
    assert not index.from_cache
    assert index.path(0).is_file() and index.root == tmp_path / "two"


def test_a_list_of_images_and_given_paths_are_part_of_the_name(tmp_path: Path) -> None:
    source = make_yolo(tmp_path)
    (tmp_path / "list.txt").write_text("images/train/a.png\n")
    listed = DataSource(tmp_path, images={"train": tmp_path / "list.txt"})
    assert len(source.read("train", keep=True)) == 4
    assert len(listed.read("train", keep=True)) == 1
    assert listed.read("train", keep=True).from_cache
    wait_for_a_tick(tmp_path)  # it is as long as before
    (tmp_path / "list.txt").write_text("images/train/b.png\n")
    assert listed.read("train", keep=True).path(0).name == "b.png"
    (tmp_path / "list.txt").write_text("images/train/b.png\nimages/train/b.png\n")
    twice = listed.read("train", keep=True)
    assert len(twice) == 1 and "twice" in str(twice.findings[0]) and not twice.from_cache

    path = write_coco(tmp_path / "coco", coco_document())
    names = {
        index_path(CocoReader(path, split, images, root))
        for split in ("train", "val")
        for images in (None, tmp_path / "coco/images/train")
        for root in (tmp_path / "coco", tmp_path)
    }
    assert len(names) == 8 and None not in names


def test_a_split_leaves_the_files_of_others_alone(tmp_path: Path) -> None:
    source = make_yolo(tmp_path)
    content = yaml.safe_load((tmp_path / "data.yaml").read_text())
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({**content, "val": "images/train"}))
    other = tmp_path / FOLDER / "00000000_train_index_0000000000000000.npz"
    other.parent.mkdir()
    other.write_text("of another data set")
    for split in ("train", "val"):
        source.read(split, keep=True)  # type: ignore[arg-type]
    assert len(kept(tmp_path)) == 3 and other.exists()
    touch(tmp_path / "labels/train/a.txt")
    source.read("train", keep=True)
    assert len(kept(tmp_path)) == 3
    assert not source.read("val", keep=True).from_cache


def test_another_reader_reads_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = YoloReader(write_yolo(tmp_path, LABELS), "train")
    before = index_path(reading)
    monkeypatch.setattr(index_cache, "_code", lambda: "changed")
    assert index_path(reading) != before


def test_no_damaged_file_is_used(tmp_path: Path) -> None:
    source = make_yolo(tmp_path)
    fresh = source.read("train", keep=True)
    path = tmp_path / FOLDER / kept(tmp_path)[0]
    whole = path.read_bytes()
    with np.load(path) as file:
        in_data = {name: whole.index(file.zip.read(f"{name}.npy")) for name in file.files}
    places = [begin + offset for begin in in_data.values() for offset in (0, 30, 100, 129)]
    cut = [whole[:n] for n in (0, 1, 12, len(whole) // 2, len(whole) - 1)]
    for data in (*(flipped(whole, place) for place in places), *cut, bytes(len(whole))):
        path.write_bytes(data)
        index = source.read("train", keep=True)
        assert not index.from_cache
        assert_equal(index, fresh)
        assert path.read_bytes() == whole
    for place in range(0, len(whole), 37):  # also between the arrays, where a change may mean nothing
        path.write_bytes(flipped(whole, place))
        assert_equal(source.read("train", keep=True), fresh)


def flipped(data: bytes, place: int) -> bytes:
    """The same bytes with one bit changed."""
    changed = bytearray(data)
    changed[place] ^= 1 << (place % 8)
    return bytes(changed)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("save", [np.save, np.savez])
def test_a_pickle_is_neither_written_nor_read(tmp_path: Path, save: Callable[..., None]) -> None:
    source = make_coco(tmp_path)
    fresh = source.read("train", keep=True)
    path = tmp_path / FOLDER / kept(tmp_path)[0]
    with np.load(path, allow_pickle=False) as file:
        contents = {name: file[name] for name in file.files}
    assert len(contents) == 12 and all(array.dtype.kind in "uifb" for array in contents.values())
    bomb = np.array([Bomb(tmp_path / "exploded")], object)
    with path.open("wb") as opened:
        if save is np.save:
            np.save(opened, bomb, allow_pickle=True)
        else:
            np.savez(opened, **{**contents, "facts": bomb})
    assert b"exploded" in path.read_bytes()
    index = source.read("train", keep=True)
    assert not index.from_cache and not (tmp_path / "exploded").exists()
    assert_equal(index, fresh)


def test_read_only_data_is_kept_in_the_users_folder_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_yolo(tmp_path / "data")
    fresh = source.read("train")
    before = sorted((tmp_path / "data").rglob("*"))
    (tmp_path / "data").chmod(0o555)
    (tmp_path / "file").write_text("not a folder")
    try:
        for home, from_cache in (("home", [False, True]), ("file", [False, False])):
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / home))
            indices = [source.read("train", keep=True) for _ in range(2)]
            assert [index.from_cache for index in indices] == from_cache
            for index in indices:
                *findings, last = index.findings
                assert home == "home" or "yolo_lightning: the cache cannot be made there" in str(last)
                found = index if home == "home" else dataclasses.replace(index, findings=tuple(findings))
                assert_equal(found, fresh)
        assert sorted((tmp_path / "data").rglob("*")) == before
        assert len(list((tmp_path / "home/yolo_lightning").glob("*.npz"))) == 1
    finally:
        (tmp_path / "data").chmod(0o755)


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_wrong_data_are_wrong_each_time(make: Callable[[Path], DataSource], tmp_path: Path) -> None:
    source = make(tmp_path)
    if make is make_coco:
        rewrite(tmp_path / "annotations/instances_train2017.json", '"category_id": 5', '"category_id": 6')
    else:
        rewrite(tmp_path / "labels/train/a.txt", "1 0.9", "7 0.9")
    messages = []
    for keep in (False, True, True):
        with pytest.raises(InputError) as error:
            source.read("train", keep)
        messages.append(str(error.value))
    assert len(set(messages)) == 1
    with pytest.raises(InputError, match="there is no test split"):
        source.read("test", keep=True)
    if make is make_yolo:
        with pytest.raises(InputError, match=r"'val' names .*images/val, which does not exist"):
            source.read("val", keep=True)


def test_a_change_during_the_reading_is_seen_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_yolo(tmp_path)
    read = YoloReader.read

    def read_and_change(reader: YoloReader) -> DatasetIndex:
        index = read(reader)
        wait_for_a_tick(tmp_path)  # it is as long as before
        (tmp_path / "labels/train/d.txt").write_text("1 0.2 0.1 0.1 0.1\n")
        return index

    with monkeypatch.context() as patch:
        patch.setattr(YoloReader, "read", read_and_change)
        old = source.read("train", keep=True)
    new = source.read("train", keep=True)
    assert not new.from_cache and (new.boxes != old.boxes).any()


@dataclasses.dataclass(frozen=True)
class Given(SplitReader):
    """An index that is there already."""

    index: DatasetIndex | None = None

    @staticmethod
    def find(root: Path) -> Path | None:
        return None

    @staticmethod
    def classes(place: Path, splits: Sequence[str]) -> Classes:
        raise NotImplementedError

    def read(self) -> DatasetIndex:
        assert self.index is not None
        return self.index

    def facts(self) -> Iterator[object]:
        return iter(())


def test_loading_takes_no_more_memory_than_the_arrays(tmp_path: Path) -> None:
    images, labels = 3_000, 200_000
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.random((labels, 2, 2)) * 600, axis=1).reshape(-1, 4)
    (tmp_path / "images").mkdir()
    paths = [str(tmp_path / f"images/{i:012}.jpg") for i in range(images)]
    for path in paths:
        Path(path).touch()
    index = build_index(
        root=tmp_path, split="train", source=tmp_path / "a", class_names=("a", "b"),
        category_ids=np.array([1, 2]), paths=paths,
        image_ids=np.arange(images), sizes=np.full((images, 2), 640, np.int32),
        annotations=Annotations(
            np.sort(rng.integers(0, images, labels)), np.arange(labels), rng.integers(0, 2, labels), boxes,
            np.ones(labels), np.zeros(labels, np.bool_),
        ),
        describe=lambda path, row: f"{path}: {row}",
    )  # fmt: skip
    reading = Given(tmp_path / "a", "train", index=index)
    size = sum(value.nbytes for value in vars(index).values() if isinstance(value, np.ndarray))
    read_once(reading)
    tracemalloc.start()
    try:
        loaded = read_once(dataclasses.replace(reading, index=None))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert_equal(loaded, index)
    assert size > 6e6 and peak < 1.1 * size + (1 << 20)


def test_without_locks_or_a_file_to_lock_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_yolo(tmp_path)

    def refuse(*_: object) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert not source.read("train", keep=True).from_cache
    assert source.read("train", keep=True).from_cache
    (tmp_path / "data.yaml").write_text((tmp_path / "data.yaml").read_text() + "\n")
    (tmp_path / FOLDER / "index.lock").unlink()
    (tmp_path / FOLDER / "index.lock").mkdir()  # cannot be opened
    assert not source.read("train", keep=True).from_cache


def test_strange_names_survive(tmp_path: Path) -> None:
    names = ["ü b.png", "狗.png", os.fsdecode(b"\xff.png")]
    document = {
        "images": [image(n, name) for n, name in enumerate(names)],
        "categories": [{"id": 1, "name": "狗"}],
        "annotations": [annotation(n, n, 1, [1, 1, 5, 5]) for n in range(3)],
    }
    write_image(tmp_path / "images/train/a.png")
    try:
        for name in names:
            shutil.copy(tmp_path / "images/train/a.png", tmp_path / "images/train" / name)
    except OSError:
        pytest.skip("the file system takes no such name")
    write_coco(tmp_path, json.dumps(document))
    source = DataSource(tmp_path)
    fresh, _, index = source.read("train"), source.read("train", True), source.read("train", True)
    assert index.from_cache
    assert_equal(index, fresh)
    assert sorted(index.path(i).name for i in range(3)) == sorted(names)
