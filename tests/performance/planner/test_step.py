"""The plan of a step against the memory that the same step takes on a CPU, as torch's profiler counts it."""

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.support.allocations import allocated_peak
from yolo_lightning.model.losses import LossConfigs
from yolo_lightning.model.network import build_network
from yolo_lightning.performance.planner.step import (
    Job,
    build_fake,
    library_workspace,
    planned_room,
    trace_step,
)
from yolo_lightning.performance.planner.trace import Trace
from yolo_lightning.training.optimizer import OptimizerConfig, build_optimizer
from yolo_lightning.training.step import training_losses


def measured_peak(job: Job, batch_size: int, folder: Path) -> int:
    """Bytes of network, gradients, optimizer, averages and one batch at most, in real steps."""

    def train() -> None:
        network = build_network(job.architecture, job.num_classes).to(memory_format=torch.channels_last)
        average = [value.clone() for value in network.state_dict().values()]
        criterion = network.head.build_loss(LossConfigs())
        optimizer = build_optimizer(network, OptimizerConfig(), batch_size=batch_size, fused=True)
        for _ in range(2):
            images = torch.rand(batch_size, 3, *job.image_size)
            images = images.contiguous(memory_format=torch.channels_last)
            targets = torch.rand(planned_room(job, batch_size), 6) * 60
            targets[:, 0], targets[:, 1] = torch.arange(len(targets)) % batch_size, 0
            targets[:, 4:] = targets[:, 2:4] + 20
            mask = torch.rand(len(targets)) < 0.5
            loss, _ = training_losses(network, criterion, images, targets, mask)
            (loss * batch_size).backward()
            del images, targets, mask, loss
            optimizer.step()
        del average

    return allocated_peak(train, folder)


@pytest.mark.parametrize("name", ["yolov5n", "yolov5nu"])
def test_the_plan_is_within_a_tenth_of_the_memory_that_real_steps_take(tmp_path: Path, name: str) -> None:
    job = Job(name, num_classes=3, image_size=(128, 128), precision="32-true", label_rows=16)
    plan = trace_step(job, 4)
    planned = plan.peak - sum(plan.parts[part] for part in ("workspace", "validation", "augmentation"))
    measured = measured_peak(job, 4, tmp_path)
    assert planned == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize(
    ("batch_size", "reserved_gb"), [(1, 0.296), (2, 0.568), (4, 1.007), (8, 1.797), (16, 3.280)]
)
def test_forward_and_backward_of_yolov5s_take_what_was_read_on_an_a100(
    batch_size: int, reserved_gb: float
) -> None:
    """Readings of yolov5#5092: 640 px, autocast in fp16, without loss, optimizer and averages."""
    mode = FakeTensorMode()
    network = build_fake(Job("yolov5s"), mode)
    with mode, Trace("weights") as trace:
        trace.note(list(network.state_dict().values()))
        for _ in range(2):
            images = torch.empty(batch_size, 3, 640, 640)
            with torch.autocast("cpu", torch.float16):
                maps = network(images)
            torch.stack([each.sum() for each in maps]).sum().backward()
            del images, maps
    planned = (trace.reserved + library_workspace(trace.operators)) / 1e9
    assert -0.1 <= planned / reserved_gb - 1 <= 0.15
