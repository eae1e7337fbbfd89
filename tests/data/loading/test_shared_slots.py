from __future__ import annotations

import gc
import os
import weakref

import numpy as np
import pytest
import torch

from yolo_lightning.data.batch import Batch
from yolo_lightning.data.loading.shared_slots import Slots
from yolo_lightning.errors import InputError
from yolo_lightning.system import memory

SHAPES = {
    "images": ((5, 33, 37, 3), np.uint8),
    "targets": ((5, 16, 5), np.float32),
    "count": ((5,), np.int64),
    "index": ((5,), np.int64),
    "image_ids": ((5,), np.int64),
    "original_sizes": ((5, 2), np.int64),
    "letterbox": ((5, 4), np.float32),
}
"""Of a batch of 5 images of 37 x 33 px with 16 labels: no field but the pixels' fills whole cache lines."""


def _make(count: int = 3) -> Slots:
    return Slots(count, batch_size=5, image_size=(33, 37), capacity=16)


def _take(slots: Slots, value: int) -> Batch:
    """Write ``value`` into every field of a slot, and lend it."""
    slot = slots.free.popleft()
    for array in slots.arrays(slot).values():
        array[:] = value
    return slots.lend(slot)


def _holds(batch: Batch, value: int) -> bool:
    return all(bool((tensor == value).all()) for tensor in batch[:7])


def test_fields_have_the_shapes_of_a_batch() -> None:
    arrays = _make().arrays(1)
    assert set(arrays) == set(SHAPES)
    for name, (shape, kind) in SHAPES.items():
        array = arrays[name]
        assert array.shape == shape and array.dtype == kind and array.flags.writeable, name
        assert array.ctypes.data % 64 == 0, name


def test_no_field_of_any_slot_touches_another() -> None:
    slots = _make()
    rng = np.random.default_rng(0)
    written = {}
    for slot in range(3):
        for name, array in slots.arrays(slot).items():
            array[:] = rng.integers(0, 256, array.shape)
            written[slot, name] = array.copy()
    for slot in range(3):
        for name, array in slots.arrays(slot).items():
            np.testing.assert_array_equal(array, written[slot, name])
    for slot in range(3):
        batch = slots.lend(slot)
        for name in SHAPES:
            found = getattr(batch, name)
            found = found.permute(0, 2, 3, 1) if name == "images" else found
            np.testing.assert_array_equal(found.numpy(), written[slot, name])


def test_a_lent_batch_has_the_documented_types_and_layout() -> None:
    slots = _make()
    batch = slots.lend(slots.free.popleft())
    assert batch.images.shape == (5, 3, 33, 37) and batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.targets.shape == (5, 16, 5) and batch.letterbox.dtype == torch.float32
    assert batch.truth.shape == (5, 0, 7) and batch.truth.dtype == torch.float32
    assert batch.truth_count.tolist() == [0] * 5
    for name in ("count", "index", "image_ids", "original_sizes", "truth_count"):
        assert getattr(batch, name).dtype == torch.int64, name


def test_a_lent_batch_is_a_view() -> None:
    slots = _make()
    slot = slots.free.popleft()
    batch = slots.lend(slot)
    assert batch.images.data_ptr() == slots.arrays(slot)["images"].ctypes.data
    slots.arrays(slot)["images"][3, 1, 2] = (7, 8, 9)
    slots.arrays(slot)["letterbox"][4] = 0.5
    assert batch.images[3, :, 1, 2].tolist() == [7, 8, 9]
    assert batch.letterbox[4].tolist() == [0.5] * 4


@pytest.mark.parametrize("name", list(SHAPES))
def test_a_slot_returns_when_its_last_tensor_is_gone(name: str) -> None:
    slots = _make()
    batch = _take(slots, 1)
    assert sorted(slots.free) == [1, 2]
    kept = getattr(batch, name)
    del batch
    assert sorted(slots.free) == [1, 2]
    part = kept[2:4]
    del kept
    assert sorted(slots.free) == [1, 2] and bool((part == 1).all())
    seen = part.numpy()  # nor while an array looks at it
    del part
    assert sorted(slots.free) == [1, 2]
    del seen
    assert sorted(slots.free) == [0, 1, 2]


def test_a_slot_does_not_return_twice() -> None:
    slots = _make()
    for value in range(20):
        batch = _take(slots, value)
        assert _holds(batch, value)
        del batch
        assert sorted(slots.free) == [0, 1, 2]


def test_what_shares_no_memory_holds_no_slot() -> None:
    slots = _make()
    batch = _take(slots, 1)
    copies = (batch.images.clone(), batch.truth, batch.truth_count)
    del batch
    assert sorted(slots.free) == [0, 1, 2] and len(copies) == 3


def test_without_a_free_slot_the_batch_is_copied_and_stays_right() -> None:
    slots = _make()
    kept = [_take(slots, value) for value in range(10)]
    # The last slot is never lent: it goes round among the workers.
    (last,) = slots.free
    for array in slots.arrays(last).values():
        array[:] = 99
    assert all(_holds(batch, value) for value, batch in enumerate(kept))
    assert all(batch.images.is_contiguous(memory_format=torch.channels_last) for batch in kept)
    addresses = [slots.arrays(slot)["images"].ctypes.data for slot in range(3)]
    assert [batch.images.data_ptr() in addresses for batch in kept] == [True] * 2 + [False] * 8
    del kept[5:]
    assert list(slots.free) == [last]
    del kept[1]
    assert sorted([*slots.free]) == sorted([last, 1])
    kept.clear()
    assert sorted(slots.free) == [0, 1, 2]


def test_batches_outlive_the_slots() -> None:
    slots = _make()
    gone = weakref.ref(slots)
    batch = _take(slots, 5)
    del slots
    gc.collect()
    assert gone() is None and _holds(batch, 5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_a_forked_process_writes_is_seen_here() -> None:
    slots = _make()
    slot = slots.free.popleft()
    child = os.fork()
    if not child:
        for array in slots.arrays(slot).values():
            array[:] = 77
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert _holds(slots.lend(slot), 77)


def test_too_little_memory_is_said() -> None:
    with pytest.raises(InputError) as error:
        Slots(4, batch_size=1 << 20, image_size=(1 << 14, 1 << 14), capacity=16)
    # 4 x 2^20 x 3 x 2^28 bytes are 3.4 million GB.
    assert str(error.value).startswith("the loader cannot have 33777")
    assert str(error.value).endswith("; set a smaller --data.batch_size or --data.num_workers")


def test_elsewhere_than_on_linux_memory_is_shared_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_IS_LINUX", False)
    slots = _make()
    assert slots.memory.is_shared()
    batch = _take(slots, 3)
    assert _holds(batch, 3)
    del batch
    assert sorted(slots.free) == [0, 1, 2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_memory_is_copied_from_while_the_host_goes_on() -> None:
    slots = _make()
    slots.pin()
    batch = _take(slots, 5)
    assert slots.is_pinned and all(tensor.is_pinned() for tensor in batch[:7])
    torch.cuda.set_sync_debug_mode("error")
    try:
        there = [tensor.to("cuda", non_blocking=True) for tensor in batch[:7]]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(bool((tensor == 5).all()) for tensor in there)


class Runtime:
    """What the CUDA runtime is asked for."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.registered: list[int] = []

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        if not self.status:
            self.registered.append(address)
        return self.status

    def cudaHostUnregister(self, address: int) -> int:
        self.registered.remove(address)
        return 0


def test_page_locked_memory_is_let_go_with_the_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    for _ in range(5):  # a mapping often gets the address of the one before
        slots = Slots(2, 2, (32, 32), 16)
        slots.pin()
        assert slots.is_pinned and len(runtime.registered) == 1
        del slots
        assert runtime.registered == []


def test_memory_that_cannot_be_page_locked_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "cudart", lambda: Runtime(status=2))
    slots = Slots(2, 2, (32, 32), 16)
    with pytest.warns(UserWarning, match="cannot be page-locked"):
        slots.pin()
    assert not slots.is_pinned
