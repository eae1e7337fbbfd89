"""What one rank asks for, all ranks do at the same batch."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch

from tests.support.processes import side_by_side
from yolo_lightning.distributed.agreement import Agreement


def test_a_process_alone_sees_its_flags_at_once() -> None:
    agreement = Agreement(flags=2)
    assert agreement.exchange([True, False]) == [True, False]
    assert agreement.settle([False, True]) == [False, True]
    assert agreement.exchange([False, False]) == [False, False]
    assert agreement.least(3) == 3


RAISED = {(1, 1): [True, False], (2, 0): [False, True], (4, 1): [False, True]}
"""(batch, rank) to the flags that it raises there."""


def _work(rank: int, world: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    agreement = Agreement(flags=2)
    seen = [agreement.exchange(RAISED.get((batch, rank), [False, False])) for batch in range(5)]
    seen.append(agreement.settle([rank == 0, False]))  # with what was raised in batch 4
    seen.append(agreement.exchange([False, False]))  # settled: nothing is left over
    agreement.exchange([False, False])  # and under way while they find
    assert agreement.least(5 - rank) == 6 - world
    torch.save(seen, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_all_ranks_see_a_flag_one_batch_after_it_was_raised(world: int, tmp_path: Path) -> None:
    side_by_side(_work, world, world, str(tmp_path))
    no = [False, False]
    expected = [no, no, [True, False], [False, True], no, [True, True], no]
    for rank in range(world):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == expected


def _patience(rank: int, world: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/store", rank=rank, world_size=world, timeout=timedelta(minutes=7)
    )
    backend = Agreement(flags=1)._group._get_backend(torch.device("cpu"))
    torch.save(backend.options._timeout.total_seconds(), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_the_group_waits_as_long_as_the_default_one(tmp_path: Path) -> None:
    side_by_side(_patience, 2, 2, str(tmp_path))
    assert [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)] == [420.0] * 2
