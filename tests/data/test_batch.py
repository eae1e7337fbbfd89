from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric.utilities import move_data_to_device

from yolo_lightning.data.batch import Batch, host_labels, label_capacity, move, pack_labels, row_mask


def make_batch() -> Batch:
    return Batch(
        images=torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
        targets=torch.zeros(2, 16, 5),
        count=torch.tensor([1, 0]),
        index=torch.tensor([4, 7]),
        image_ids=torch.tensor([40, 70]),
        original_sizes=torch.tensor([[20, 30], [32, 32]]),
        letterbox=torch.ones(2, 4),
        truth=torch.zeros(2, 0, 7),
        truth_count=torch.zeros(2, dtype=torch.int64),
    )


def test_row_mask_by_hand() -> None:
    assert row_mask(torch.tensor([0, 2, 3]), 3).tolist() == [
        [False, False, False],
        [True, True, False],
        [True, True, True],
    ]
    assert row_mask(torch.tensor([0, 0]), 0).shape == (2, 0)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=5))
@settings(deadline=None)
def test_row_mask_holds_as_many_rows_as_counted_and_the_first_ones(counts: list[int]) -> None:
    mask = row_mask(torch.tensor(counts), 20)
    for row, count in zip(mask.tolist(), counts, strict=True):
        assert row == [True] * count + [False] * (20 - count)


@pytest.mark.parametrize(
    ("most", "capacity"),
    [(0, 16), (1, 16), (16, 16), (17, 32), (32, 32), (33, 64), (64, 64), (100, 128), (128, 128), (129, 256)],
)
def test_label_capacity_by_hand(most: int, capacity: int) -> None:
    assert label_capacity(most) == capacity


@given(st.integers(0, 10**6))
def test_label_capacity_has_room_and_is_a_power_of_two(most: int) -> None:
    capacity = label_capacity(most)
    assert capacity >= max(most, 16)
    assert capacity.bit_count() == 1
    assert capacity == 16 or capacity < 2 * most


def test_fields_that_tuples_also_have_as_methods_are_tensors() -> None:
    batch = make_batch()
    assert batch.count.tolist() == [1, 0]
    assert batch.index.tolist() == [4, 7]


def test_a_batch_stays_a_batch_when_lightning_moves_it() -> None:
    batch = make_batch()
    moved = move_data_to_device(batch, torch.device("meta"))
    assert isinstance(moved, Batch)
    assert all(field.device.type == "meta" for field in moved[:-1])
    assert [field.shape for field in moved[:-1]] == [field.shape for field in batch[:-1]]


def test_the_host_keeps_what_it_must_know_of_a_batch_that_moves() -> None:
    batch = make_batch()
    moved = move(batch, torch.device("meta"))
    batch.count.fill_(9)  # as the memory of a loader is used again
    assert all(field.device.type == "meta" for field in moved[:-1])
    known = host_labels(moved)
    assert known.index.tolist() == [4, 7] and known.count.tolist() == [1, 0]
    assert move(moved, torch.device("meta")).on_host is moved.on_host
    last = moved.map(lambda tensor: tensor[1:])
    assert host_labels(last).index.tolist() == [7] and last.images.shape == (1, 3, 32, 32)


def test_labels_are_packed_in_order() -> None:
    targets = torch.arange(30.0).view(3, 2, 5)
    table, mask = pack_labels(targets, torch.tensor([1, 0, 2]), 5)
    assert mask.tolist() == [True, True, True, False, False]
    assert table[:, 0].tolist() == [0, 2, 2, 0, 0]
    assert torch.equal(table[:3, 1:], targets[[0, 2, 2], [0, 0, 1]])
    assert not table[3:].any()
    nothing, mask = pack_labels(targets, torch.tensor([0, 0, 0]), 1)
    assert nothing.shape == (1, 6) and not mask.any()
