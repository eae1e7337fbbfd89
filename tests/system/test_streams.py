from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from yolo_lightning.system import streams
from yolo_lightning.system.streams import hand_over, run_beside, side_stream

GPU = torch.device("cuda", 0)


class FakeStream:
    """Writes down what it is told to wait for."""

    def __init__(self, name: str, told: list[str]) -> None:
        self.name, self.told, self.device = name, told, GPU

    def wait_stream(self, other: FakeStream) -> None:
        self.told.append(f"{self.name} waits for {other.name}")


class FakeTensor:
    """Writes down who uses it."""

    def __init__(self, name: str, told: list[str]) -> None:
        self.name, self.told = name, told

    def record_stream(self, stream: FakeStream) -> None:
        self.told.append(f"{self.name} is used by {stream.name}")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What two fake streams of a fake device are told, in order."""
    lines: list[str] = []
    side, current = FakeStream("side", lines), FakeStream("current", lines)

    @contextmanager
    def on(stream: FakeStream) -> Iterator[None]:
        lines.append(f"begin on {stream.name}")
        yield
        lines.append(f"end on {stream.name}")

    monkeypatch.setattr(streams, "side_stream", lambda device: side if device == GPU else None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current if device == GPU else None)
    monkeypatch.setattr(torch.cuda, "stream", on)
    return lines


def test_on_a_cpu_it_is_simply_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("there is no stream on a CPU")

    for room, name in ((streams, "side_stream"), (torch.cuda, "current_stream"), (torch.cuda, "stream")):
        monkeypatch.setattr(room, name, never)
    made = (torch.ones(2), torch.zeros(3))
    calls: list[int] = []
    for after_current in (True, False):
        found = run_beside(torch.device("cpu"), lambda: calls.append(1) or made, after_current)
        assert found is made
    assert len(calls) == 2


@pytest.mark.parametrize("after_current", [True, False])
def test_on_a_gpu_it_is_made_on_the_side_and_handed_over(told: list[str], after_current: bool) -> None:
    made: Any = (FakeTensor("a", told), FakeTensor("b", told))
    assert run_beside(GPU, lambda: told.append("make") or made, after_current) is made
    assert told == [
        *(["side waits for current"] if after_current else []),
        "begin on side",
        "make",
        "end on side",
        "current waits for side",
        "a is used by current",
        "b is used by current",
    ]


def test_handing_over_takes_any_number_of_tensors(told: list[str]) -> None:
    side: Any = FakeStream("maker", told)
    tensors: Any = (FakeTensor(name, told) for name in "xyz")
    hand_over(tensors, side)
    assert told == ["current waits for maker", *(f"{name} is used by current" for name in "xyz")]


def test_there_is_one_side_stream_for_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: ("stream of", device))
    streams.side_stream.cache_clear()
    try:
        first = side_stream(torch.device("cuda", 0))
        assert side_stream(torch.device("cuda", 0)) is first
        assert side_stream(torch.device("cuda", 1)) == ("stream of", torch.device("cuda", 1))
    finally:
        streams.side_stream.cache_clear()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_real_gpu_both_streams_see_what_the_other_made() -> None:
    with torch.cuda.device(GPU):
        matrix = torch.randn(4096, 4096, device=GPU)
        assert side_stream(GPU) != torch.cuda.current_stream(GPU)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")  # nobody waits on the host
        try:
            found = []
            for step in range(20):
                late = torch.zeros(1 << 20, device=GPU)
                for _ in range(3):
                    matrix @ matrix  # the current stream is behind
                late += step

                def make(late: torch.Tensor = late) -> tuple[torch.Tensor, ...]:
                    for _ in range(3):
                        matrix @ matrix  # so is the side stream
                    return (late * 2,)

                (made,) = run_beside(GPU, make, after_current=True)
                found.append(made + 1)
                del made, late  # their memory is taken again at once
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for step, tensor in enumerate(found):
        assert bool((tensor == 2 * step + 1).all())
