from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from yolo_lightning.performance.stalls import RecompilationReader


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def doubled(x: Tensor) -> Tensor:
    return x * 2


def tripled(x: Tensor) -> Tensor:
    return x * 3


def test_a_change_of_shape_is_one_recompilation() -> None:
    reader = RecompilationReader()
    compiled = torch.compile(doubled, dynamic=False, backend="aot_eager")
    compiled(torch.ones(2))
    reader.read()
    compiled(torch.ones(2))
    assert reader.read() == []
    assert compiled(torch.ones(3)).tolist() == [2, 2, 2]
    [found] = reader.read()
    assert found.function == "doubled"
    assert "size mismatch" in found.reason
    assert found.seconds > 0
    compiled(torch.ones(2))  # both are kept
    compiled(torch.ones(3))
    assert reader.read() == []


def test_a_change_of_mode_is_named() -> None:
    reader = RecompilationReader()
    compiled = torch.compile(doubled, dynamic=False, backend="aot_eager")
    compiled(torch.ones(2))
    reader.read()
    with torch.no_grad():
        compiled(torch.ones(2))
    assert ["grad_mode" in found.reason for found in reader.read()] == [True]


def test_forward_and_backward_are_one_recompilation() -> None:
    reader = RecompilationReader()
    compiled = torch.compile(doubled, dynamic=False, backend="aot_eager")
    reader.read()
    for rows in (2, 3, 4):
        compiled(torch.ones(rows, requires_grad=True)).sum().backward()
    assert [found.function for found in reader.read()] == ["doubled", "doubled"]


def test_the_first_compilation_of_a_function_is_none() -> None:
    reader = RecompilationReader()
    reader.read()
    torch.compile(doubled, backend="aot_eager")(torch.ones(2))
    torch.compile(tripled, backend="aot_eager")(torch.ones(2))
    assert reader.read() == []


def test_recompilations_are_found_after_the_compiler_was_reset() -> None:
    reader = RecompilationReader()
    for _ in range(2):
        torch._dynamo.reset()
        torch._dynamo.utils.clear_compilation_metrics()
        compiled = torch.compile(doubled, dynamic=False, backend="aot_eager")
        compiled(torch.ones(2))
        compiled(torch.ones(3))
        assert len(reader.read()) == 1
