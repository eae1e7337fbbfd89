"""The doctor's measurements run the module, the Trainer and the callbacks that train."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from yolo_lightning.data.batch import Batch
from yolo_lightning.data.module import DetectionDataModule
from yolo_lightning.performance.doctor.images import TrainingSample
from yolo_lightning.performance.doctor.plan import Form
from yolo_lightning.performance.doctor.short_training import ShortTraining, StepClock
from yolo_lightning.training.ema import ExponentialMovingAverage
from yolo_lightning.training.module import YOLOv5
from yolo_lightning.training.optimizer import OptimizerConfig

CPU = torch.device("cpu")
PLAIN = Form("32-true", channels_last=False, compile=False)
FAST = Form("bf16-mixed", channels_last=True, compile=False)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other take ten times as long where other tests hold the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(shapes: Path) -> DetectionDataModule:
    data = DetectionDataModule(str(shapes), image_size=64, batch_size=2)
    data.build_indices("fit")
    return data


@pytest.fixture(scope="module")
def batch(data: DetectionDataModule) -> Batch:
    index = data.index("train")
    return next(iter(TrainingSample(index, (64, 64), index.most_labels, 8).loader(2, 0, CPU)))


def short_training(
    data: DetectionDataModule, build: Callable[..., YOLOv5] = YOLOv5, **optimizer: Any
) -> ShortTraining:
    module = YOLOv5("yolov5n", optimizer=OptimizerConfig(**optimizer))
    return ShortTraining(module, data, 2, CPU, ExponentialMovingAverage(), build)


def test_forms_are_timed_and_their_losses_agree(data: DetectionDataModule, batch: Batch) -> None:
    state, count = torch.random.get_rng_state(), torch.get_num_threads()
    training = short_training(data)
    plain, again, fast = (training.time_step(form, batch, 0.0) for form in (PLAIN, PLAIN, FAST))
    assert (plain.form, fast.form) == (PLAIN, FAST)
    assert again.loss == pytest.approx(plain.loss, rel=1e-3)  # the same weights and the same mosaics
    for result in (plain, fast):
        assert result.failure is None and result.repetitions == 2 * 2
        assert result.median_ms > 0 and result.peak_bytes is None  # there is no CUDA device
        assert result.as_json()["images_per_second"] == pytest.approx(2000 / result.median_ms)
    assert plain.loss != fast.loss  # computed in another precision
    assert fast.has_right_loss(plain.loss)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == count and not torch.is_autocast_enabled("cpu")


def test_the_step_is_the_one_that_trains(data: DetectionDataModule, batch: Batch) -> None:
    """The user's clipping, optimizer and average are in it."""
    norms: list[tuple[float, float]] = []
    averaged: list[int] = []
    module: list[YOLOv5] = []

    class Watched(YOLOv5):
        def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
            before = self._norm()
            super().on_before_optimizer_step(optimizer)
            norms.append((before, self._norm()))
            module[:] = [self]
            [ema] = [c for c in self.trainer.callbacks if isinstance(c, ExponentialMovingAverage)]  # type: ignore[attr-defined]
            averaged.append(ema.updates)

        def _norm(self) -> float:
            grads = [p.grad.flatten() for p in self.network.parameters() if p.grad is not None]
            return float(torch.cat(grads).norm())

    training = short_training(data, Watched, gradient_clip_norm=0.5, name="adamw", nominal_batch_size=2)
    training.time_step(PLAIN, batch, 0.0)
    assert len(norms) == 4  # two to warm up, two timed
    assert all(after == pytest.approx(min(before, 0.5), rel=1e-3) for before, after in norms)
    assert averaged == [0, 1, 2, 3]
    assert isinstance(module[0].trainer.optimizers[0], torch.optim.AdamW)


def test_a_form_that_fails_leaves_the_others(data: DetectionDataModule, batch: Batch) -> None:
    class Refusing(YOLOv5):
        def training_step(self, batch: Batch, batch_index: int) -> None:
            if self.trainer.precision == "bf16-mixed":
                raise RuntimeError("out of memory\nwith a long explanation")
            super().training_step(batch, batch_index)

    training = short_training(data, Refusing)
    failed, plain = (training.time_step(form, batch, 0.0) for form in (FAST, PLAIN))
    assert failed.failure == "RuntimeError: out of memory"
    assert not failed.has_right_loss(plain.loss)
    assert plain.failure is None and plain.repetitions > 0


@pytest.mark.parametrize(("channels_last", "expected"), [(False, "contiguous"), (True, "channels last")])
def test_the_memory_order_is_that_of_the_activations(
    channels_last: bool, expected: str, data: DetectionDataModule, batch: Batch
) -> None:
    seen: list[Tensor] = []

    class Watched(YOLOv5):
        def on_train_start(self) -> None:
            super().on_train_start()
            self.network.model[0].register_forward_hook(lambda module, inputs, output: seen.append(output))

    training = short_training(data, Watched)
    for order in (not channels_last, channels_last):  # the same copy, in one order after the other
        training.train(PLAIN._replace(channels_last=order), itertools.repeat(batch), StepClock(0.0, 1, 1))
    is_last = seen[-1].is_contiguous(memory_format=torch.channels_last) and not seen[-1].is_contiguous()
    assert ("channels last" if is_last else "contiguous") == expected


@pytest.mark.parametrize(("warm_up", "burst", "batches"), [(1, 1, 3), (2, 2, 6), (4, 3, 10)])
def test_two_bursts_are_timed_whole(
    warm_up: int, burst: int, batches: int, data: DetectionDataModule, batch: Batch
) -> None:
    given: list[int] = []

    def batches_of_one_image() -> Any:
        while True:
            given.append(1)
            yield batch.map(lambda tensor: tensor[:1])

    clock = StepClock(0.0, warm_up, burst)
    short_training(data).train(PLAIN, batches_of_one_image(), clock)
    assert len(given) == batches
    assert len(clock.burst_ms) == 2 and min(clock.burst_ms) > 0


def test_a_clock_goes_on_for_its_time(data: DetectionDataModule, batch: Batch) -> None:
    one_image = batch.map(lambda tensor: tensor[:1])
    clock = StepClock(0.3, 1, 1)
    short_training(data).train(PLAIN, itertools.repeat(one_image), clock)
    assert sum(clock.burst_ms) >= 300


def test_the_user_s_module_stays_as_it_was(data: DetectionDataModule, batch: Batch) -> None:
    training = short_training(data)
    before = dict(training.module.hparams)
    training.time_step(PLAIN, batch, 0.0)
    assert "network" not in training.module._modules
    assert dict(training.module.hparams) == before
    assert data.trainer is None
