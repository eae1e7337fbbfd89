from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from yolo_lightning.data.augment import Augmentation, AugmentationConfig
from yolo_lightning.data.batch import row_mask
from yolo_lightning.performance.doctor import bare_step as training_step
from yolo_lightning.performance.doctor import measure_steps as steps
from yolo_lightning.performance.doctor.bare_step import TrainingStep, prepare, synthetic_batch
from yolo_lightning.performance.doctor.busy_machine import Disturbance, is_disturbed, threads
from yolo_lightning.performance.doctor.candidates import Candidate, StepShape, StepTime
from yolo_lightning.performance.doctor.measure_steps import (
    measure_step,
    measure_steps,
    quartiles,
    time_steps,
)

SHAPE = StepShape("yolov5n", num_classes=3, image_size=64, batch_size=2, label_capacity=16)
PLAIN = Candidate("32-true", channels_last=False, compile=False)
FAST = Candidate("bf16-mixed", channels_last=True, compile=False)


@pytest.fixture
def no_step_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine can hold up a single step for so long that fewer of them would be made."""
    monkeypatch.setattr(steps, "SLOW_STEP_S", math.inf)


def test_the_candidates_of_a_shape_are_timed_and_their_losses_agree(no_step_is_slow: None) -> None:
    plain, fast = measure_steps(SHAPE, [PLAIN, FAST], budget_s=0.2)
    assert (plain.candidate, fast.candidate) == (PLAIN, FAST)
    for result in (plain, fast):
        assert result.failure is None and result.repetitions >= 3
        assert 0 < result.quick_ms <= result.median_ms
        assert result.images_per_second == pytest.approx(1000 * result.batch_size / result.median_ms)
        assert result.peak_bytes is None  # there is no CUDA device
    assert plain.loss != fast.loss  # computed in another precision
    assert fast.is_right(plain)


def test_nothing_is_left_changed() -> None:
    state, count = torch.random.get_rng_state(), torch.get_num_threads()
    measure_step(SHAPE, FAST, augment=True, budget_s=0.1)
    measure_steps(SHAPE, [FAST], budget_s=0.1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == count
    assert not torch.is_autocast_enabled("cpu")


def test_a_candidate_that_fails_leaves_the_others(
    no_step_is_slow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = training_step.build_optimizer

    def refuse(*args: object, fused: bool, **options: object) -> torch.optim.Optimizer:
        if not fused:  # only fp16 has a scaler, and with it no fused optimizer
            raise RuntimeError("out of memory\nwith a long explanation")
        return real(*args, fused=fused, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(training_step, "build_optimizer", refuse)
    half, plain = measure_steps(SHAPE, [replace(PLAIN, precision="16-mixed"), PLAIN], budget_s=0.1)
    assert half.failure == "RuntimeError: out of memory"
    assert not half.is_right(plain)
    assert plain.failure is None and plain.repetitions >= 3


def test_the_step_trains_as_the_recipe_says() -> None:
    """Gradients clipped to 10, weights moved by the optimizer, average moved towards the weights."""
    step, data = TrainingStep(SHAPE, PLAIN), prepare(SHAPE, synthetic_batch(SHAPE))
    for group in step.optimizer.param_groups:
        group.update(lr=1.0, weight_decay=0.0, momentum=0.0, nesterov=False)
    before = [parameter.detach().clone() for parameter in step.network.parameters()]
    average_before = [value.clone() for value in step._average]
    step(data)
    moved = torch.cat(
        [(a - b.detach()).flatten() for a, b in zip(before, step.network.parameters(), strict=True)]
    ).norm()
    assert 0 < float(moved) <= 10.001  # the gradient itself, at a rate of 1
    for live, old, new in zip(step._live, average_before, step._average, strict=True):
        torch.testing.assert_close(new, old + 1e-4 * (live - old))
    assert all(parameter.grad is None for parameter in step.network.parameters())


@pytest.mark.parametrize(("channels_last", "expected"), [(False, "contiguous"), (True, "channels last")])
def test_the_memory_order_is_that_of_the_activations(channels_last: bool, expected: str) -> None:
    step = TrainingStep(SHAPE, replace(PLAIN, channels_last=channels_last))
    seen = []
    first = step.network.model[0]
    first.register_forward_hook(lambda module, inputs, output: seen.append(output))
    step(prepare(SHAPE, synthetic_batch(SHAPE)))
    is_last = seen[0].is_contiguous(memory_format=torch.channels_last) and not seen[0].is_contiguous()
    assert ("channels last" if is_last else "contiguous") == expected


def test_prepared_data_has_the_shapes_of_augmented_data() -> None:
    for config in (AugmentationConfig(), AugmentationConfig(mixup=0.5)):
        shape = replace(SHAPE, augmentation=config)
        batch = synthetic_batch(shape)
        images, targets, mask = Augmentation(config)(batch, 0)
        prepared = prepare(shape, batch)
        for ours, theirs in zip(prepared, (images, targets, mask), strict=True):
            assert (ours.shape, ours.dtype, ours.stride()) == (theirs.shape, theirs.dtype, theirs.stride())


def test_the_synthetic_batch_has_boxes_inside_its_images() -> None:
    batch = synthetic_batch(SHAPE)
    boxes = batch.targets[row_mask(batch.count, 16)][:, 1:]
    assert len(boxes) == 16
    assert bool((boxes >= 0).all() and (boxes <= 64).all() and (boxes[:, 2:] > boxes[:, :2]).all())
    assert all(torch.equal(a, b) for a, b in zip(batch, synthetic_batch(SHAPE), strict=True))


@pytest.mark.parametrize(
    ("loss", "last", "right"),
    [
        (1.04, 1.0, True),
        (1.06, 1.0, False),
        (math.nan, 1.0, False),
        (1.0, math.inf, False),
        (0.94, 1.0, False),
    ],
)
def test_a_loss_is_right_near_the_one_in_fp32(loss: float, last: float, right: bool) -> None:
    reference = StepTime(PLAIN, 2, 1.0, 1.0, 0.0, 3, loss=1.0, last_loss=1.0)
    assert StepTime(FAST, 2, 1.0, 1.0, 0.0, 3, loss=loss, last_loss=last).is_right(reference) is right


def test_quartiles() -> None:
    assert quartiles([4.0]) == (4.0, 4.0, 4.0)
    assert quartiles([5.0, 1.0, 2.0, 4.0, 3.0]) == (2.0, 3.0, 4.0)


def test_steps_are_timed_by_the_clock_that_is_given() -> None:
    ticks = iter([0.0, 0.5, 2.5])
    calls: list[int] = []
    assert time_steps(partial(calls.append, 1), lambda: next(ticks), 2) == [500.0, 2000.0]
    assert calls == [1, 1]


def test_waiting_for_a_core_is_seen(tmp_path: Path) -> None:
    for task, waited_ns in (("1", 5_000_000), ("2", 7_000_000)):
        (tmp_path / task).mkdir()
        (tmp_path / task / "schedstat").write_text(f"100 {waited_ns} 3\n")
    disturbance = Disturbance(tmp_path)
    (tmp_path / "2" / "schedstat").write_text("100 60000007000000 3\n")  # 60,000 s more
    time.sleep(0.001)
    assert is_disturbed(disturbance.fraction())
    assert Disturbance(tmp_path).fraction() == 0
    assert not is_disturbed(Disturbance(tmp_path / "nowhere").fraction())


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before
