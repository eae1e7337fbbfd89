import os
from typing import Any

import pytest
import torch
from jsonargparse import Namespace

from yolo_lightning.cli import check_options
from yolo_lightning.cli.check_options import resolve_options, settle_step
from yolo_lightning.errors import InputError

FREE: dict[str, Any] = {"precision": None, "accelerator": "cpu", "devices": 1, "sync_batchnorm": False}


def config(compile: Any = "auto", channels_last: Any = "auto", **trainer: Any) -> Any:
    return Namespace(
        trainer=Namespace(**{**FREE, **trainer}),
        model=Namespace(compile=compile, channels_last=channels_last),
    )


@pytest.fixture(autouse=True)
def bf16_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yolo_lightning.training.precision.has_native_bf16", lambda device: True)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(check_options, "rank_zero_info", lines.append)
    return lines


def test_the_rule_and_its_reason_are_one_line_of_the_log(said: list[str]) -> None:
    options = config()
    settle_step(options, is_training=True)
    assert (options.trainer.precision, options.model.channels_last) == ("bf16-mixed", True)
    assert options.model.compile == "auto"  # the module decides
    assert said == ["step: bf16-mixed because this CPU computes in bfloat16, channels last by rule"]


def test_fp16_is_tested_on_the_gpu_of_this_process(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    tested: list[tuple[Any, ...]] = []
    monkeypatch.setattr(check_options, "fp16_is_sound", lambda *found: bool(tested.append(found)))
    monkeypatch.setattr(check_options, "is_on_gpu", lambda _: True)
    monkeypatch.setattr(check_options, "rank_zero_warn", said.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    options = config(False, precision="16-mixed", accelerator="gpu", devices=[2, 3])
    options.model.architecture, options.model.num_classes = "yolov5s", 7
    options.data = Namespace(image_size=320)
    settle_step(options, is_training=True)
    assert tested == [("cuda:3", "yolov5s", 7, (320, 320))]
    assert options.trainer.precision == "bf16-mixed"
    assert said[0] == "fp16 gives values that are not finite on this device; training in bf16-mixed instead"


def test_given_values_stay(said: list[str]) -> None:
    options = config("default", False, precision="32-true")
    settle_step(options, is_training=True)
    assert (options.trainer.precision, options.model.channels_last) == ("32-true", False)
    assert options.model.compile == "default"
    assert said == ["step: 32-true as given, channels first as given"]


def test_nothing_is_handed_to_other_processes_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(os.environ)
    alone, beside = config(), config()
    settle_step(alone, is_training=True)
    assert dict(os.environ) == before
    monkeypatch.setenv("WORLD_SIZE", "4")
    settle_step(beside, is_training=True)
    assert beside == alone


def test_evaluation_is_in_fp32_on_a_cpu_and_in_bf16_on_a_gpu_that_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = config()
    settle_step(options, is_training=False)
    assert options == config()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for has_bf16, expected in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(check_options, "has_native_bf16", lambda _, has_bf16=has_bf16: has_bf16)
        options = config(accelerator="auto")
        settle_step(options, is_training=False)
        assert options.trainer.precision == expected


@pytest.mark.parametrize(("obstacle", "expected"), [(None, "augmentation"), ("no compiler", False)])
def test_synchronised_batch_norms_leave_the_network_eager(
    obstacle: str | None, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(check_options, "compiler_obstacle", lambda device: obstacle)
    options = config(accelerator="gpu", sync_batchnorm=True)
    settle_step(options, is_training=True)
    assert options.model.compile == expected
    with pytest.raises(InputError, match=r"--model\.compile augmentation"):
        settle_step(config("default", sync_batchnorm=True), is_training=True)


def test_two_profilers_are_refused() -> None:
    trainer = {"profiler": "simple", "accumulate_grad_batches": 1, "gradient_clip_val": None}
    options = config(**trainer, barebones=False, val_check_interval=None)
    options.profile = True
    with pytest.raises(InputError, match=r"--profile and --trainer\.profiler both record the steps"):
        resolve_options(options, "fit")
