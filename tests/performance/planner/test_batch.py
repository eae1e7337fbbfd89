"""The largest batch of a plan, with a memory of known size in place of traced steps."""

import pytest

from yolo_lightning.errors import InputError
from yolo_lightning.performance.planner import batch
from yolo_lightning.performance.planner.batch import Planner, suggested_batch
from yolo_lightning.performance.planner.step import PARTS, Job, StepPlan

MB = 10**6


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batch sizes that were traced; a step takes 100 MB and 10 MB an image, in segments of 64 MB."""
    traced = []

    def trace_step(job: Job, batch_size: int) -> StepPlan:
        traced.append(batch_size)
        parts = dict.fromkeys(PARTS, 0) | {"activations": peak(batch_size)}
        return StepPlan(batch_size, parts, {}, [])

    monkeypatch.setattr(batch, "trace_step", trace_step)
    return traced


def peak(batch_size: int) -> int:
    return -(-(100 + 10 * batch_size) // 64) * 64 * MB


def test_the_largest_batch_fits_and_grows_with_the_memory(sizes: list[int]) -> None:
    planner = Planner(Job())
    found = [planner.largest_batch(room * MB) for room in range(100, 4000, 50)]
    for room, largest in zip(range(100, 4000, 50), found, strict=True):
        true = max((size for size in range(1, 400) if peak(size) <= room * MB), default=0)
        assert min(true - 7, 0.95 * true) <= largest <= true  # a segment holds 6.4 images
    assert found == sorted(found)


def test_few_steps_are_traced(sizes: list[int]) -> None:
    Planner(Job()).largest_batch(2000 * MB)
    assert len(sizes) <= 4


def test_a_batch_that_fits_is_traced_alone(sizes: list[int]) -> None:
    assert Planner(Job()).largest_batch(2000 * MB, most=64) == 64
    assert sizes == [64]


@pytest.mark.parametrize(("largest", "suggested"), [(0, 0), (5, 5), (8, 8), (55, 48), (150, 64)])
def test_the_suggested_batch_is_a_multiple_of_eight_up_to_an_optimizer_step(
    largest: int, suggested: int
) -> None:
    assert suggested_batch(largest, nominal=64) == suggested


def test_more_images_than_numbers_can_say_are_refused() -> None:
    with pytest.raises(InputError, match="1000000000000 images of 640 px are more than any memory holds"):
        Planner(Job()).plan(10**12)
