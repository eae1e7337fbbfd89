from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from torch.utils.data import DistributedSampler, SequentialSampler

from yolo_lightning.data.loading.sampler import EvalSampler, SameShapeBatchSampler, TrainSampler


def _epoch(images: int, batch: int, world: int, rank: int, seed: int = 0, epoch: int = 0) -> list[int]:
    sampler = TrainSampler(range(images), batch, seed, world, rank)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert len(sampler) == len(order)
    return order


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize(("images", "batch"), [(20, 4), (21, 4), (3, 4), (1, 16), (205, 16)])
def test_full_equal_batches_with_every_image(images: int, batch: int, world: int) -> None:
    orders = [_epoch(images, batch, world, rank) for rank in range(world)]
    assert {len(order) for order in orders} == {-(-images // (batch * world)) * batch}
    counts = [sum(order.count(i) for order in orders) for i in range(images)]
    assert min(counts) >= 1 and max(counts) - min(counts) <= 1


def test_order_is_a_function_of_seed_and_epoch() -> None:
    orders = {
        (seed, epoch): tuple(_epoch(50, 8, 1, 0, seed, epoch)) for seed in range(4) for epoch in range(4)
    }
    assert len(set(orders.values())) == 16
    assert orders[1, 2] == tuple(_epoch(50, 8, 1, 0, 1, 2))


@pytest.mark.parametrize("images", [32, 37])
def test_batches_of_all_ranks_join_to_those_of_one_process(images: int) -> None:
    joined = _epoch(images, 8, 1, 0, epoch=3)
    ranks = [_epoch(images, 4, 2, rank, epoch=3) for rank in range(2)]
    for step in range(len(ranks[0]) // 4):
        parts = [order[step * 4 : step * 4 + 4] for order in ranks]
        assert sorted(chain(*parts)) == sorted(joined[step * 8 : step * 8 + 8])


class Shapes:
    """A data set of which only the shapes of its images are known."""

    def __init__(self, shapes: list[tuple[int, int]]) -> None:
        self.canvases = np.array(shapes, dtype=np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.canvases)


TALL, WIDE = (64, 32), (32, 64)


@pytest.mark.parametrize("images", [0, 1, 7, 8])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_takes_every_image_once(images: int, world: int) -> None:
    dataset = Shapes([TALL if i % 3 else WIDE for i in range(images)])
    samplers = [EvalSampler(dataset, world, rank) for rank in range(world)]
    parts = [list(sampler) for sampler in samplers]
    assert sorted(chain(*parts)) == list(range(images))
    assert [len(sampler) for sampler in samplers] == [len(part) for part in parts]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_images_of_one_shape_come_together_in_their_order() -> None:
    assert list(EvalSampler(Shapes([TALL, WIDE, TALL, WIDE]), 1, 0)) == [1, 3, 0, 2]


def test_a_batch_has_one_shape() -> None:
    sampler = SameShapeBatchSampler(EvalSampler(Shapes([TALL, WIDE, TALL, WIDE, TALL]), 1, 0), 2)
    assert list(sampler) == [[1, 3], [0, 2], [4]]
    assert len(sampler) == 3


def test_batches_are_the_same_from_the_sampler_that_lightning_puts_in() -> None:
    dataset = Shapes([TALL, WIDE, TALL])
    own = SameShapeBatchSampler(EvalSampler(dataset, 1, 0), 2)
    assert list(SameShapeBatchSampler(SequentialSampler(dataset), 2)) == list(own)


def test_lightning_finds_distributed_samplers() -> None:
    assert isinstance(TrainSampler(range(3), 2), DistributedSampler)
    sampler = EvalSampler(Shapes([TALL] * 3))
    assert isinstance(sampler, DistributedSampler) and not sampler.shuffle


def test_the_same_order_for_every_epoch_where_that_is_asked_for() -> None:
    sampler = TrainSampler(range(10), 2, seed=3, world_size=1, rank=0, same_order=True)
    first = TrainSampler(range(10), 2, seed=3, world_size=1, rank=0).order(0)
    assert [sampler.order(epoch) for epoch in (0, 1, 7)] == [first] * 3


def _resumed(images: int, batch: int, world: int, rank: int, seen: int) -> TrainSampler:
    sampler = TrainSampler(range(images), batch, 5, world, rank)
    sampler.resume(2, seen)
    sampler.set_epoch(2)
    return sampler


@pytest.mark.parametrize("batches", [0, 1, 3, 6])
def test_a_resumed_epoch_is_the_rest_of_one_that_was_not_stopped(batches: int) -> None:
    for rank in range(2):
        whole = TrainSampler(range(27), 2, 5, 2, rank).order(2)
        sampler = _resumed(27, 2, 2, rank, seen=batches * 4)
        assert sampler.order(2) == whole[batches * 2 :]
        assert sampler.begins_at(2) == batches
        assert sampler.order(3) == TrainSampler(range(27), 2, 5, 2, rank).order(3)
        assert (sampler.begins_at(3), sampler.seen(3)) == (0, 0)


@pytest.mark.parametrize(("world", "batch"), [(1, 4), (3, 2), (4, 3), (2, 1), (1, 40)])
@pytest.mark.parametrize("seen", [4, 8, 24])
def test_on_another_number_of_ranks_each_image_of_the_epoch_is_seen_once(
    world: int, batch: int, seen: int
) -> None:
    images = 28
    before = sorted(chain(*(TrainSampler(range(images), 2, 5, 2, rank).order(2) for rank in range(2))))
    assert before == list(range(images))
    first = [TrainSampler(range(images), 2, 5, 2, rank).order(2)[: seen // 2] for rank in range(2)]
    samplers = [_resumed(images, batch, world, rank, seen) for rank in range(world)]
    rest = [sampler.order(2) for sampler in samplers]
    assert len({len(order) for order in rest}) == 1 and len(rest[0]) % batch == 0
    joined = list(chain(*zip(*rest, strict=True)))  # in the order in which all ranks see them
    assert sorted([*chain(*first), *joined[: images - seen]]) == list(range(images))
    assert len(joined) - (images - seen) < world * batch  # what fills up the last batch
    whole = -(-images // (world * batch))
    assert samplers[0].begins_at(2) + len(rest[0]) // batch == whole


def test_batches_before_the_resumption_come_first() -> None:
    whole = TrainSampler(range(27), 2, 5, 2, 1).order(2)
    sampler = _resumed(27, 2, 2, 1, seen=12)
    assert sampler.order(2, before=2) == whole[2:]
    assert sampler.order(2, before=9) == whole


def test_of_an_epoch_of_which_all_images_were_seen_nothing_is_left() -> None:
    for rank in range(2):
        sampler = _resumed(27, 2, 2, rank, seen=27)
        assert (sampler.order(2), sampler.begins_at(2)) == ([], 7)
        assert sampler.order(3) == TrainSampler(range(27), 2, 5, 2, rank).order(3)
