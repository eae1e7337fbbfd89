from __future__ import annotations

from itertools import chain

import pytest
from torch.utils.data import DistributedSampler

from yolo_lightning.data.sampler import EvalSampler, TrainSampler


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


@pytest.mark.parametrize("images", [0, 1, 7, 8])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_takes_every_image_once(images: int, world: int) -> None:
    samplers = [EvalSampler(range(images), world, rank) for rank in range(world)]
    parts = [list(sampler) for sampler in samplers]
    assert sorted(chain(*parts)) == list(range(images))
    assert [len(sampler) for sampler in samplers] == [len(part) for part in parts]
    assert all(part == sorted(part) for part in parts)


def test_lightning_finds_distributed_samplers() -> None:
    assert isinstance(TrainSampler(range(3), 2), DistributedSampler)
    sampler = EvalSampler(range(3))
    assert isinstance(sampler, DistributedSampler) and not sampler.shuffle
