from __future__ import annotations

import numpy as np
import pytest
import torch

from yolo_lightning.data.augment.randomness import (
    BETA_DRAWS,
    VIEW_STREAMS,
    ViewStream,
    beta_32_32,
    integers,
    uniforms,
)


def draw(seed: int = 0, epoch: int = 0, first: int = 0, samples: int = 4000, draws: int = 16) -> torch.Tensor:
    index = torch.arange(first, first + samples)
    return uniforms(torch.tensor(seed), torch.tensor(epoch), index, draws)


def mix_in_python(bits: int) -> int:
    bits ^= bits >> 16
    bits = bits * 0x21F0AAAD % 2**32
    bits ^= bits >> 15
    bits = bits * 0x735A2D97 % 2**32
    return bits ^ (bits >> 15)


def test_equals_the_hash_written_with_python_integers() -> None:
    seed, epoch = 2**40 + 12345, 17
    found = uniforms(torch.tensor(seed), torch.tensor(epoch), torch.tensor([0, 99, 2**31 + 5]), 5)
    for row, index in enumerate((0, 99, 2**31 + 5)):
        first, second = 0x243F6A88, 0x13198A2E
        for word in (seed % 2**32, seed >> 32, epoch, index):
            first, second = mix_in_python((first + word) % 2**32), mix_in_python(second ^ word)
        expected = [mix_in_python(first ^ mix_in_python((second + k) % 2**32)) >> 8 for k in range(5)]
        assert (found[row].double() * 2**24).tolist() == expected


@pytest.mark.parametrize("key", ["seed", "epoch", "first"])
def test_each_part_of_the_key_changes_every_number(key: str) -> None:
    changed = draw(**{key: 4000})
    assert (draw() == changed).float().mean() < 1e-5


def test_a_number_does_not_depend_on_its_neighbours() -> None:
    alone = uniforms(torch.tensor(3), torch.tensor(5), torch.tensor([42]), 7)
    among = uniforms(torch.tensor(3), torch.tensor(5), torch.tensor([7, 42, 1]), 16)
    assert torch.equal(alone[0], among[1, :7])


@pytest.mark.parametrize("axis", ["samples", "streams", "epochs"])
def test_uniform_and_independent_along_every_axis(axis: str) -> None:
    if axis == "samples":
        numbers = draw(draws=2)
    elif axis == "streams":
        numbers = draw(samples=2, draws=4000).T
    else:
        numbers = torch.cat([draw(epoch=epoch, samples=1, draws=2) for epoch in range(4000)])
    for column in numbers.double().numpy().T:
        distance = np.abs(np.sort(column) - (np.arange(4000) + 0.5) / 4000).max()
        assert distance < 1.63 / np.sqrt(4000)  # Kolmogorov-Smirnov at 1 %
        assert abs(np.corrcoef(column[:-1], column[1:])[0, 1]) < 0.045
    cells = np.floor(numbers.double().numpy() * 8).astype(int)
    observed = np.bincount(cells[:, 0] * 8 + cells[:, 1], minlength=64)
    assert ((observed - 62.5) ** 2 / 62.5).sum() < 92.0  # chi-square, 63 degrees, at 1 %


def test_integers_cover_their_range_evenly() -> None:
    found = integers(draw(draws=1), torch.tensor(10))
    counts = torch.bincount(found.flatten(), minlength=10)
    assert len(counts) == 10
    assert ((counts - 400.0) ** 2 / 400).sum() < 21.7  # chi-square, 9 degrees, at 1 %
    assert integers(torch.tensor([1 - 2**-24]), torch.tensor(1000)).item() == 999


def test_beta_has_the_moments_and_shape_of_beta_32_32() -> None:
    found = np.sort(beta_32_32(draw(draws=BETA_DRAWS)).double().numpy())
    assert abs(found.mean() - 0.5) < 0.004
    assert abs(found.var() - 1 / (4 * 65)) < 3e-4  # a b / ((a + b)^2 (a + b + 1))
    grid = np.linspace(0, 1, 20001)
    density = grid**31 * (1 - grid) ** 31
    cumulative = np.interp(found, grid, np.cumsum(density) / density.sum())
    assert np.abs(cumulative - (np.arange(4000) + 0.5) / 4000).max() < 1.63 / np.sqrt(4000)


def test_streams_of_a_view_do_not_overlap() -> None:
    ends = [*sorted(ViewStream)[1:], VIEW_STREAMS]
    widths = {stream.name: end - stream for stream, end in zip(sorted(ViewStream), ends, strict=True)}
    assert widths == {
        "MAIN": 1, "PARTNER": 3, "ORDER": 4, "CENTRE": 2,
        "PERSPECTIVE": 2, "ANGLE": 1, "SCALE": 1, "SHEAR": 2, "TRANSLATE": 2,
    }  # fmt: skip
