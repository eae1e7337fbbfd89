from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import torch

from tests.support.tiny_data import coco_document, image, write_coco
from yolo_lightning.data.annotations.coco import CocoReader
from yolo_lightning.data.annotations.index import DatasetIndex
from yolo_lightning.data.annotations.source import Split
from yolo_lightning.data.images import choose_cache
from yolo_lightning.data.images.cache import cache_path, open_cache
from yolo_lightning.data.images.choose_cache import (
    NO_CACHE,
    CacheChoice,
    CacheOption,
    CachePlan,
    Room,
    fastest_cache,
    find_room,
)
from yolo_lightning.errors import InputError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
PLENTY = 10**9
TRAIN_BYTES = 3 * 3 * 64 * 64
"""Three images of 64 x 64 px in three colours; validation has four."""
ALL_BYTES = 7 * 3 * 64 * 64


@pytest.fixture
def indices(tmp_path: Path) -> dict[Split, DatasetIndex]:
    train, val = coco_document(), coco_document()
    val["images"].append(image(11, "d.png"))
    return {
        "train": CocoReader(write_coco(tmp_path, train), "train").read(),
        "val": CocoReader(write_coco(tmp_path, val, split="val"), "val").read(),
    }


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> list[Room]:
    """What is free, to be changed in place; nobody asks the machine."""
    free = [Room(PLENTY, PLENTY, PLENTY)]
    monkeypatch.setattr(choose_cache, "find_room", lambda *_: free[0])
    return free


def _choose(
    indices: dict[Split, DatasetIndex], cache: CacheOption, device: torch.device = GPU
) -> tuple[CacheChoice, list[str]]:
    said: list[str] = []
    return CachePlan(indices, (64, 64), device, 8, cache, said.append).choice, said


@pytest.mark.parametrize("device", [CPU, GPU])
def test_auto_takes_the_fastest_that_fits(
    indices: dict[Split, DatasetIndex], room: list[Room], device: torch.device
) -> None:
    for free, expected in [
        (Room(4 * TRAIN_BYTES, 2 * ALL_BYTES, 2 * ALL_BYTES), CacheChoice("device", "disk")),
        (Room(4 * TRAIN_BYTES - 1, 2 * ALL_BYTES, 2 * ALL_BYTES), CacheChoice("disk", "disk")),
        (Room(PLENTY, 4 * ALL_BYTES, 2 * ALL_BYTES - 1), CacheChoice("device", "ram")),
        (Room(0, 4 * ALL_BYTES, 0), CacheChoice("ram", "ram")),
        (Room(PLENTY, 2 * ALL_BYTES - 1, PLENTY), NO_CACHE),
    ]:
        room[0] = free
        choice, said = _choose(indices, "auto", device)
        assert choice == expected
        assert said == [f"cache: {expected.mode}; decoded, the training images take 0.00 GB"]


def test_what_is_asked_for_is_done_however_little_room_there_seems(
    indices: dict[Split, DatasetIndex], room: list[Room]
) -> None:
    room[0] = Room(0, 0, 0)
    assert _choose(indices, "none") == (NO_CACHE, [])
    assert _choose(indices, "disk") == (CacheChoice("disk", "disk"), [])
    assert _choose(indices, "ram") == (CacheChoice("ram", "ram"), [])


def test_a_device_without_room_is_refused(indices: dict[Split, DatasetIndex], room: list[Room]) -> None:
    assert _choose(indices, "device")[0] == CacheChoice("device", "disk")
    room[0] = Room(4 * TRAIN_BYTES - 1, PLENTY, PLENTY)
    with pytest.raises(InputError) as error:
        _choose(indices, "device")
    assert str(error.value) == (
        "data.cache device: decoded, the training images take 0.00 GB, more than 25% of what is free on "
        "cuda:0; set --data.cache auto or disk"
    )


def test_a_device_with_room_but_nothing_to_fill_it_from_says_so(
    indices: dict[Split, DatasetIndex], room: list[Room]
) -> None:
    room[0] = Room(PLENTY, 2 * ALL_BYTES - 1, PLENTY)
    with pytest.raises(InputError, match=r"data\.cache device: .*memory"):
        _choose(indices, "device")


def test_one_pass_over_images_keeps_none(indices: dict[Split, DatasetIndex], room: list[Room]) -> None:
    validation: dict[Split, DatasetIndex] = {"val": indices["val"]}
    assert _choose(validation, "auto") == (NO_CACHE, [])
    assert _choose({}, "auto") == (NO_CACHE, [])
    assert _choose(validation, "disk")[0] == CacheChoice("disk", "disk")
    # There is no training set that could lie on the device, and nothing to refuse.
    room[0] = Room(0, PLENTY, PLENTY)
    assert _choose(validation, "device")[0].mode in ("none", "disk", "device")
    assert _choose({}, "device")[0] == NO_CACHE


def test_the_fastest_fitting_cache_does_not_depend_on_the_request_or_on_later_room(
    indices: dict[Split, DatasetIndex], room: list[Room]
) -> None:
    cache_plan = CachePlan(indices, (64, 64), GPU, 8, "none")
    assert cache_plan.choice == NO_CACHE
    assert cache_plan.fastest_fitting == CacheChoice("device", "disk")
    room[0] = Room(0, PLENTY, PLENTY)  # the model lies there by now
    assert cache_plan.fastest_fitting == CacheChoice("device", "disk")
    assert CachePlan(indices, (64, 64), GPU, 8, "none").fastest_fitting == CacheChoice("disk", "disk")
    assert CachePlan({}, (64, 64), GPU, 8, "none").fastest_fitting == NO_CACHE


def test_room_is_asked_where_the_files_go_and_caches_that_are_there_count(
    indices: dict[Split, DatasetIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, torch.device, int]] = []

    def find_room(folder: Path, device: torch.device, cached_bytes: int) -> Room:
        asked.append((folder, device, cached_bytes))
        return Room(PLENTY, PLENTY, PLENTY)

    monkeypatch.setattr(choose_cache, "find_room", find_room)
    folder = cache_path(indices["train"], (64, 64), True, "disk").parent
    _choose(indices, "auto", CPU)
    open_cache(indices["train"], (64, 64), True, "disk")
    _choose(indices, "auto", CPU)
    open_cache(indices["val"], (64, 64), False, "disk")
    open_cache(indices["val"], (96, 96), False, "disk")  # of another size: nobody's here
    _choose(indices, "auto", CPU)
    assert asked == [(folder, CPU, 0), (folder, CPU, TRAIN_BYTES + 3), (folder, CPU, ALL_BYTES + 7)]


@pytest.mark.parametrize("cache", ["disk", "device"])
def test_caches_are_built_once(
    indices: dict[Split, DatasetIndex], room: list[Room], cache: CacheOption
) -> None:
    said: list[str] = []
    cache_plan = CachePlan(indices, (64, 64), CPU, 2, cache, said.append)
    train, val = cache_plan.cache("train"), cache_plan.cache("val")
    assert train is not None and val is not None
    assert train.path == cache_path(indices["train"], (64, 64), True, "disk") and train.path.is_file()
    assert val.path == cache_path(indices["val"], (64, 64), False, "disk") and len(val.pixels) == 4
    assert cache_plan.cache("train") is train
    assert len(said) == 2 and all("caching" in line for line in said)
    again = CachePlan(indices, (64, 64), CPU, 2, cache, said.append)
    assert again.cache("train") is not None and len(said) == 2
    assert CachePlan(indices, (64, 64), CPU, 2, "none").cache("train") is None


WORKERS: list[tuple[torch.device, CacheOption, int, Split | None, int]] = [
    # Decoding: one worker a core, 16 at most.
    (GPU, "none", 1, "train", 1),
    (GPU, "none", 3, "train", 3),
    (GPU, "none", 64, "train", 16),
    (GPU, "none", 64, "val", 16),
    # Copying from a file is done by few; what predict reads is in no file.
    (GPU, "disk", 2, "train", 2),
    (GPU, "disk", 64, "train", 4),
    (GPU, "disk", 64, "val", 4),
    (GPU, "disk", 64, None, 16),
    (GPU, "ram", 64, "train", 4),
    # On the device there is nothing to load.
    (GPU, "device", 64, "train", 0),
    (GPU, "device", 64, "val", 4),
    # On a CPU training needs the cores.
    (CPU, "none", 64, "train", 0),
    (CPU, "disk", 64, "val", 0),
    (CPU, "none", 64, None, 0),
]


@pytest.mark.parametrize(("device", "cache", "cores", "split", "expected"), WORKERS)
def test_automatic_workers(
    indices: dict[Split, DatasetIndex],
    room: list[Room],
    device: torch.device,
    cache: CacheOption,
    cores: int,
    split: Split | None,
    expected: int,
) -> None:
    assert CachePlan(indices, (64, 64), device, cores, cache).worker_count(split, "auto") == expected


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize(("cache", "for_training"), [("none", 7), ("disk", 7), ("device", 0)])
def test_workers_that_are_asked_for(
    indices: dict[Split, DatasetIndex],
    room: list[Room],
    device: torch.device,
    cache: Literal["none", "disk", "device"],
    for_training: int,
) -> None:
    cache_plan = CachePlan(indices, (64, 64), device, 2, cache)
    assert cache_plan.worker_count("train", 7) == for_training
    assert cache_plan.worker_count("val", 7) == 7 and cache_plan.worker_count(None, 0) == 0


def test_auto_goes_on_without_a_cache_that_cannot_be_made(
    indices: dict[Split, DatasetIndex], room: list[Room], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1))
    said: list[str] = []
    cache_plan = CachePlan(indices, (64, 64), CPU, 8, "auto", said.append)
    assert cache_plan.choice.mode == "device"
    assert cache_plan.cache("train") is None and cache_plan.cache("val") is None
    assert cache_plan.choice == NO_CACHE
    assert "cache: falling back to none; " in said[-1] and "are free" in said[-1]
    with pytest.raises(InputError, match="are free"):
        CachePlan(indices, (64, 64), CPU, 8, "disk").cache("train")


def test_auto_still_names_an_image_that_cannot_be_read(
    indices: dict[Split, DatasetIndex], room: list[Room]
) -> None:
    indices["train"].path(1).write_text("broken")
    with pytest.raises(InputError, match=f"{indices['train'].path(1)}: not a readable image"):
        CachePlan(indices, (64, 64), CPU, 8, "auto").cache("train")


def test_without_a_cache_no_image_is_looked_at(
    indices: dict[Split, DatasetIndex], room: list[Room], monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(*_: object) -> Path:
        raise AssertionError("looked")

    monkeypatch.setattr(choose_cache, "cache_path", look)
    assert CachePlan(indices, (64, 64), CPU, 8, "none").fastest_fitting == CacheChoice("device", "disk")


@pytest.mark.parametrize(
    ("train", "all_", "room", "expected"),
    [
        # A quarter of the device, half of the disk and of the memory.
        (100, 120, Room(device=400, memory=240, disk=240), CacheChoice("device", "disk")),
        (100, 120, Room(device=399, memory=240, disk=240), CacheChoice("disk", "disk")),
        (100, 120, Room(device=0, memory=10**6, disk=10**6), CacheChoice("disk", "disk")),
        # Too little disk: in memory, where it lies twice, at a quarter.
        (100, 120, Room(device=400, memory=480, disk=239), CacheChoice("device", "ram")),
        (100, 120, Room(device=399, memory=480, disk=0), CacheChoice("ram", "ram")),
        (100, 120, Room(device=399, memory=479, disk=239), NO_CACHE),
        # Too little memory: a file on a disk would be read from the disk anew in each epoch.
        (100, 120, Room(device=399, memory=239, disk=10**6), NO_CACHE),
        # Nothing to fill the device from.
        (100, 120, Room(device=10**6, memory=239, disk=10**6), NO_CACHE),
        (100, 120, Room(device=0, memory=0, disk=0), NO_CACHE),
    ],
)
def test_the_fastest_that_leaves_room(train: int, all_: int, room: Room, expected: CacheChoice) -> None:
    assert fastest_cache(train, all_, room) == expected


def test_room_on_a_cpu_is_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose_cache, "available_memory", lambda: 70)
    monkeypatch.setattr(
        choose_cache, "free_bytes", lambda folder, mode: {(tmp_path / "x", "disk"): 30}[folder, mode]
    )
    assert find_room(tmp_path / "x", torch.device("cpu")) == Room(device=70, memory=70, disk=30)
    # What a cache takes that is there already is room for it.
    assert find_room(tmp_path / "x", torch.device("cpu"), 12) == Room(device=70, memory=70, disk=42)


def test_room_on_a_gpu_is_what_is_free_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda asked: (55, 99) if asked == device else (0, 0))
    monkeypatch.setattr(choose_cache, "available_memory", lambda: 70)
    room = find_room(tmp_path, device)
    assert room[:2] == (55, 70) and room.disk > 0
