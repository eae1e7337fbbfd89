from __future__ import annotations

from pathlib import Path

import pytest
import torch

from yolo_lightning.data.images import choose_cache as ladder
from yolo_lightning.data.images.choose_cache import Room, Rung, choose_rung, find_room

DISK, RAM, NONE = Rung("disk", "disk"), Rung("ram", "ram"), Rung("none", None)


@pytest.mark.parametrize(
    ("train", "all_", "room", "expected"),
    [
        # A quarter of the device, half of the disk and of the memory.
        (100, 120, Room(device=400, memory=240, disk=240), Rung("device", "disk")),
        (100, 120, Room(device=399, memory=240, disk=240), DISK),
        (100, 120, Room(device=0, memory=10**6, disk=10**6), DISK),
        # Too little disk: in memory, where it lies twice, at a quarter.
        (100, 120, Room(device=400, memory=480, disk=239), Rung("device", "ram")),
        (100, 120, Room(device=399, memory=480, disk=0), RAM),
        (100, 120, Room(device=399, memory=479, disk=239), NONE),
        # Too little memory: a file on a disk would be read from the disk anew in each epoch.
        (100, 120, Room(device=399, memory=239, disk=10**6), NONE),
        # Nothing to fill the device from.
        (100, 120, Room(device=10**6, memory=239, disk=10**6), NONE),
        (100, 120, Room(device=0, memory=0, disk=0), NONE),
    ],
)
def test_the_fastest_that_leaves_room(train: int, all_: int, room: Room, expected: Rung) -> None:
    assert choose_rung(train, all_, room) == expected


def test_room_on_a_cpu_is_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "available_memory", lambda: 70)
    monkeypatch.setattr(
        ladder, "free_bytes", lambda folder, mode: {(tmp_path / "x", "disk"): 30}[folder, mode]
    )
    assert find_room(tmp_path / "x", torch.device("cpu")) == Room(device=70, memory=70, disk=30)
    # What a cache takes that is there already is room for it.
    assert find_room(tmp_path / "x", torch.device("cpu"), 12) == Room(device=70, memory=70, disk=42)


def test_room_on_a_gpu_is_what_is_free_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda", 3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda asked: (55, 99) if asked == device else (0, 0))
    monkeypatch.setattr(ladder, "available_memory", lambda: 70)
    room = find_room(tmp_path, device)
    assert room[:2] == (55, 70) and room.disk > 0
