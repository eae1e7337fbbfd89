from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import torch

from tests.support.tiny_data import coco_document, image, write_coco
from yolo_lightning.data.annotations.coco import read_coco
from yolo_lightning.data.annotations.index import DatasetIndex
from yolo_lightning.data.annotations.source import Split
from yolo_lightning.data.images import choose_cache as placement_room
from yolo_lightning.data.images.cache import cache_path, open_cache
from yolo_lightning.data.images.choose_cache import CacheMode, Placement, Room, Rung
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
        "train": read_coco(write_coco(tmp_path, train), "train"),
        "val": read_coco(write_coco(tmp_path, val, split="val"), "val"),
    }


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> list[Room]:
    """What is free, to be changed in place; nobody asks the machine."""
    free = [Room(PLENTY, PLENTY, PLENTY)]
    monkeypatch.setattr(placement_room, "find_room", lambda *_: free[0])
    return free


def _rung(
    indices: dict[Split, DatasetIndex], cache: CacheMode, device: torch.device = GPU
) -> tuple[Rung, list[str]]:
    said: list[str] = []
    return Placement(indices, 64, device, 8, cache, said.append).rung, said


@pytest.mark.parametrize("device", [CPU, GPU])
def test_auto_takes_the_fastest_that_fits(
    indices: dict[Split, DatasetIndex], room: list[Room], device: torch.device
) -> None:
    for free, expected in [
        (Room(4 * TRAIN_BYTES, 2 * ALL_BYTES, 2 * ALL_BYTES), Rung("device", "disk")),
        (Room(4 * TRAIN_BYTES - 1, 2 * ALL_BYTES, 2 * ALL_BYTES), Rung("disk", "disk")),
        (Room(PLENTY, 4 * ALL_BYTES, 2 * ALL_BYTES - 1), Rung("device", "ram")),
        (Room(0, 4 * ALL_BYTES, 0), Rung("ram", "ram")),
        (Room(PLENTY, 2 * ALL_BYTES - 1, PLENTY), Rung("none", None)),
    ]:
        room[0] = free
        rung, said = _rung(indices, "auto", device)
        assert rung == expected
        assert said == [f"cache: {expected.cache}; decoded, the training images take 0.00 GB"]


def test_what_is_asked_for_is_done_however_little_room_there_seems(
    indices: dict[Split, DatasetIndex], room: list[Room]
) -> None:
    room[0] = Room(0, 0, 0)
    assert _rung(indices, "none") == (Rung("none", None), [])
    assert _rung(indices, "disk") == (Rung("disk", "disk"), [])
    assert _rung(indices, "ram") == (Rung("ram", "ram"), [])


def test_a_device_without_room_is_refused(indices: dict[Split, DatasetIndex], room: list[Room]) -> None:
    assert _rung(indices, "device")[0] == Rung("device", "disk")
    room[0] = Room(4 * TRAIN_BYTES - 1, PLENTY, PLENTY)
    with pytest.raises(InputError) as error:
        _rung(indices, "device")
    assert str(error.value) == (
        "data.cache device: decoded, the training images take 0.00 GB, more than 25% of what is free on "
        "cuda:0; set --data.cache auto or disk"
    )


def test_a_device_with_room_but_nothing_to_fill_it_from_says_so(
    indices: dict[Split, DatasetIndex], room: list[Room]
) -> None:
    room[0] = Room(PLENTY, 2 * ALL_BYTES - 1, PLENTY)
    with pytest.raises(InputError, match=r"data\.cache device: .*memory"):
        _rung(indices, "device")


def test_one_pass_over_images_keeps_none(indices: dict[Split, DatasetIndex], room: list[Room]) -> None:
    validation: dict[Split, DatasetIndex] = {"val": indices["val"]}
    assert _rung(validation, "auto") == (Rung("none", None), [])
    assert _rung({}, "auto") == (Rung("none", None), [])
    assert _rung(validation, "disk")[0] == Rung("disk", "disk")
    # There is no training set that could lie on the device, and nothing to refuse.
    room[0] = Room(0, PLENTY, PLENTY)
    assert _rung(validation, "device")[0].cache in ("none", "disk", "device")
    assert _rung({}, "device")[0] == Rung("none", None)


def test_the_fitting_rung_is_that_of_the_start_whatever_was_asked_for(
    indices: dict[Split, DatasetIndex], room: list[Room]
) -> None:
    placement = Placement(indices, 64, GPU, 8, "none")
    assert placement.rung == Rung("none", None)
    assert placement.fitting_rung == Rung("device", "disk")
    room[0] = Room(0, PLENTY, PLENTY)  # the model lies there by now
    assert placement.fitting_rung == Rung("device", "disk")
    assert Placement(indices, 64, GPU, 8, "none").fitting_rung == Rung("disk", "disk")
    assert Placement({}, 64, GPU, 8, "none").fitting_rung == Rung("none", None)


def test_room_is_asked_where_the_files_go_and_caches_that_are_there_count(
    indices: dict[Split, DatasetIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, torch.device, int]] = []

    def find_room(folder: Path, device: torch.device, cached_bytes: int) -> Room:
        asked.append((folder, device, cached_bytes))
        return Room(PLENTY, PLENTY, PLENTY)

    monkeypatch.setattr(placement_room, "find_room", find_room)
    folder = cache_path(indices["train"], 64, True, "disk").parent
    _rung(indices, "auto", CPU)
    open_cache(indices["train"], 64, True, "disk")
    _rung(indices, "auto", CPU)
    open_cache(indices["val"], 64, False, "disk")
    open_cache(indices["val"], 96, False, "disk")  # of another size: nobody's here
    _rung(indices, "auto", CPU)
    assert asked == [(folder, CPU, 0), (folder, CPU, TRAIN_BYTES), (folder, CPU, ALL_BYTES)]


@pytest.mark.parametrize("cache", ["disk", "device"])
def test_caches_are_built_once(
    indices: dict[Split, DatasetIndex], room: list[Room], cache: CacheMode
) -> None:
    said: list[str] = []
    placement = Placement(indices, 64, CPU, 2, cache, said.append)
    train, val = placement.cache("train"), placement.cache("val")
    assert train is not None and val is not None
    assert train.path == cache_path(indices["train"], 64, True, "disk") and train.path.is_file()
    assert val.path == cache_path(indices["val"], 64, False, "disk") and len(val.pixels) == 4
    assert placement.cache("train") is train
    assert len(said) == 2 and all("caching" in line for line in said)
    again = Placement(indices, 64, CPU, 2, cache, said.append)
    assert again.cache("train") is not None and len(said) == 2
    assert Placement(indices, 64, CPU, 2, "none").cache("train") is None


WORKERS: list[tuple[torch.device, CacheMode, int, Split | None, int]] = [
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
    cache: CacheMode,
    cores: int,
    split: Split | None,
    expected: int,
) -> None:
    assert Placement(indices, 64, device, cores, cache).worker_count(split, "auto") == expected


@pytest.mark.parametrize("device", [CPU, GPU])
@pytest.mark.parametrize(("cache", "for_training"), [("none", 7), ("disk", 7), ("device", 0)])
def test_workers_that_are_asked_for(
    indices: dict[Split, DatasetIndex],
    room: list[Room],
    device: torch.device,
    cache: Literal["none", "disk", "device"],
    for_training: int,
) -> None:
    placement = Placement(indices, 64, device, 2, cache)
    assert placement.worker_count("train", 7) == for_training
    assert placement.worker_count("val", 7) == 7 and placement.worker_count(None, 0) == 0


def test_auto_goes_on_without_a_cache_that_cannot_be_made(
    indices: dict[Split, DatasetIndex], room: list[Room], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1))
    said: list[str] = []
    placement = Placement(indices, 64, CPU, 8, "auto", said.append)
    assert placement.rung.cache == "device"
    assert placement.cache("train") is None and placement.cache("val") is None
    assert placement.rung == Rung("none", None)
    assert "cache: none after all; " in said[-1] and "are free" in said[-1]
    with pytest.raises(InputError, match="are free"):
        Placement(indices, 64, CPU, 8, "disk").cache("train")


def test_auto_still_names_an_image_that_cannot_be_read(
    indices: dict[Split, DatasetIndex], room: list[Room]
) -> None:
    indices["train"].path(1).write_text("broken")
    with pytest.raises(InputError, match=f"{indices['train'].path(1)}: not a readable image"):
        Placement(indices, 64, CPU, 8, "auto").cache("train")


def test_without_a_cache_no_image_is_looked_at(
    indices: dict[Split, DatasetIndex], room: list[Room], monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(*_: object) -> Path:
        raise AssertionError("looked")

    monkeypatch.setattr(placement_room, "cache_path", look)
    assert Placement(indices, 64, CPU, 8, "none").fitting_rung == Rung("device", "disk")
