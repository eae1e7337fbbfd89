"""What one rank asks for, all ranks do at the same batch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from tests.support.processes import side_by_side
from yolo_lightning.distributed import agreement as room
from yolo_lightning.distributed.agreement import Agreement
from yolo_lightning.errors import InputError


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


def _hang(**_: object) -> None:
    threading.Event().wait()


def _refuse(**_: object) -> None:
    raise RuntimeError("Gloo connectFullMesh failed\nwith 127.0.1.1")


@pytest.mark.parametrize(
    ("new_group", "patience_s", "reason"),
    [
        (_hang, 0.1, "no answer within"),
        (_refuse, 240.0, "Gloo connectFullMesh failed with 127.0.1.1"),  # as late as a busy machine may be
    ],
)
def test_ranks_that_gloo_does_not_connect_end_with_what_to_do(
    new_group: Callable[..., None], patience_s: float, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[bool] = []
    found = {"is_initialized": True, "get_world_size": 4, "get_rank": 3}
    for name, value in found.items():
        monkeypatch.setattr(room.distributed, name, lambda value=value: value)
    monkeypatch.setattr(room.distributed, "new_group", new_group)
    monkeypatch.setattr(room, "_default_timeout", lambda: None)
    monkeypatch.setattr(room, "end_soon", lambda: ends.append(True))
    monkeypatch.setattr(room, "say_on_host", lambda sentence, _: InputError(sentence))
    monkeypatch.setattr(room.socket, "gethostname", lambda: "node7")
    monkeypatch.setattr(room, "OPEN_S", patience_s)
    with pytest.raises(InputError, match=r"^rank 3 on node7: gloo, .* set GLOO_SOCKET_IFNAME to ") as told:
        Agreement(flags=1)
    assert reason in str(told.value)
    assert ends == [True]


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
