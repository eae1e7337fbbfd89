"""The profile of a fit: what it records, what it leaves behind, and its tables."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.autograd import DeviceType

from tests.support.small_network import write_small_yaml
from yolo_lightning import DetectionDataModule, YOLOv5
from yolo_lightning.performance.step_profile import Row, StepProfile, module_rows, operator_rows


def fit(folder: Path, root: Path, batches: int, epochs: int, validates: bool) -> YOLOv5:
    """Train on single images, with the profile written to ``folder``."""
    module = YOLOv5(write_small_yaml(folder, True), compile=False)
    Trainer(
        accelerator="cpu", devices=1, max_epochs=epochs, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
        limit_val_batches=1 if validates else 0, limit_train_batches=batches, default_root_dir=folder,
        callbacks=[StepProfile(folder)],
    ).fit(module, DetectionDataModule(str(root), image_size=64, batch_size=1, num_workers=0))  # fmt: skip
    return module


def traced(folder: Path) -> list[dict[str, Any]]:
    with gzip.open(folder / "profile.pt.trace.json.gz") as file:
        events: list[dict[str, Any]] = json.load(file)["traceEvents"]
    return events


def calls_of(table: str, name: str) -> float:
    (line,) = re.findall(rf"([\d.]+)  {name}$", table, re.MULTILINE)
    return float(line)


def test_five_batches_are_recorded_once_and_nothing_remains(
    tmp_path: Path, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = fit(tmp_path, shapes, batches=8, epochs=4, validates=False)
    out, table = capsys.readouterr().out, (tmp_path / "profile.txt").read_text()
    steps = [event for event in traced(tmp_path) if event["name"].startswith("ProfilerStep#")]
    assert len(steps) == 5
    assert out.count("profile: mean of 5 batches") == 1 and table.startswith("profile: mean of 5 batches")
    assert str(tmp_path / "profile.txt") in out and str(tmp_path / "profile.pt.trace.json.gz") in out
    rows = table.splitlines()[2:]  # after the heads of the table of operators
    assert [row in out for row in rows[:12]] == [True] * 10 + [False] * 2
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in module.network.modules())
    assert calls_of(table, "aten::convolution_backward") == convolutions
    for name in ("augmentation", "0 Conv", "3 C3", "9 AnchorHead", "loss"):
        assert calls_of(table, name) == 1
    assert not torch.autograd._profiler_enabled()  # type: ignore[attr-defined]
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_a_validation_ends_the_record(
    tmp_path: Path, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, shapes, batches=3, epochs=5, validates=True)
    assert "profile: mean of 2 batches" in capsys.readouterr().out
    names = {event["name"] for event in traced(tmp_path)}
    assert "aten::convolution_backward" in names and not any("validation" in name for name in names)
    assert "torchvision::nms" not in names


def test_a_run_that_is_too_short_says_so(
    tmp_path: Path, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(tmp_path, shapes, batches=5, epochs=2, validates=False)
    sentence = "profile: nothing was recorded in 10 batches; it needs 10 of warm-up, and then an epoch of at"
    assert capsys.readouterr().out.count(sentence) == 1
    assert not list(tmp_path.glob("profile.*"))


def event(name: str, sequence: int = -1, cpu: float = 0, device: float = 0, **known: Any) -> Any:
    """An event of the profiler; its times are those of its own and in all."""
    times = {"cpu_time_total": cpu, "self_cpu_time_total": cpu}
    times |= {"device_time_total": device, "self_device_time_total": device}
    defaults = {"device_type": DeviceType.CPU, "is_user_annotation": False, "cpu_children": []}
    return SimpleNamespace(name=name, sequence_nr=sequence, **times | defaults | known)


def test_operators_have_their_share_of_the_roofline_worked_by_hand() -> None:
    events = [
        *2 * [event("aten::convolution", device=2000, self_device_time_total=0, cpu=50)],
        *2 * [event("aten::cudnn_convolution", device=2000, cpu=70)],
        *4 * [event("aten::silu", device=500, cpu=10)],
        event("module 0 Conv", device=4000, is_user_annotation=True),
        event("implicit_convolve_sgemm", device=4000, device_type=DeviceType.CUDA),
    ]
    reachable_s = {"convolution": 0.001, "silu": 0.00025, "cat": 1.0}
    assert operator_rows(events, 2, on_cuda=True, reachable_s=reachable_s) == [
        Row("aten::cudnn_convolution", 1, 2.0, 0.5),
        Row("aten::silu", 2, 1.0, 0.25),
    ]
    on_cpu = [(row.name, row.ms) for row in operator_rows(events, 2, on_cuda=False, reachable_s={})]
    assert on_cpu == [("aten::cudnn_convolution", 0.07), ("aten::convolution", 0.05), ("aten::silu", 0.02)]


@pytest.mark.parametrize(("on_cuda", "first", "second"), [(False, 4.5, 2.0), (True, 9.0, 4.0)])
def test_modules_have_their_backward_pass(on_cuda: bool, first: float, second: float) -> None:
    convolution = event("aten::conv2d", 7, cpu_children=[event("aten::convolution", 8)])
    engine = "autograd::engine::evaluate_function"
    events = [
        event("module 0 Conv", cpu=3000, device=6000, cpu_children=[convolution]),
        event("module 1 C3", cpu=4000, device=8000, cpu_children=[event("aten::silu", 9)]),
        event(f"{engine}: ConvolutionBackward0", 8, cpu=6000, device=12000),
        event(f"{engine}: MulBackward0", 4, cpu=6000, device=12000),  # of no module
        event("module 0 Conv", device=6000, device_type=DeviceType.CUDA),
    ]
    rows = module_rows(events, 2, on_cuda)
    assert rows == [Row("0 Conv", 0.5, first), Row("1 C3", 0.5, second)]
