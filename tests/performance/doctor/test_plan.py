from __future__ import annotations

import math
from dataclasses import replace
from typing import TypedDict

import pytest

from yolo_lightning.data.loading.ordered import Loading
from yolo_lightning.performance.bottleneck import Cause
from yolo_lightning.performance.doctor import plan as plans
from yolo_lightning.performance.doctor.plan import (
    Form,
    Plan,
    StepTime,
    Timing,
    changed_options,
    command_line,
    eager_forms,
    fastest,
    is_worthwhile,
    judge,
)
from yolo_lightning.training.precision import Precision

FAST = Form("bf16-mixed", channels_last=True, compile="augmentation")
PLAIN = Form("32-true", channels_last=True, compile=False)
CACHED = Plan("device", 0, FAST)
CACHED_TIMING = Timing(0.1, 12.0, 12.1)
DECODING = Plan("none", 0, FAST)


class Findings(TypedDict):
    """Arguments of ``judge``."""

    now: Plan
    now_timing: Timing
    better: Plan
    better_timing: Timing
    loading: Loading
    copy_ms: float
    on_cuda: bool


def found(
    now: Plan,
    timing: Timing,
    better: Plan = CACHED,
    better_timing: Timing = CACHED_TIMING,
    read_fraction: float = 0.1,
    on_cuda: bool = False,
    copy_ms: float = 0.0,
) -> Findings:
    return {
        "now": now,
        "now_timing": timing,
        "better": better,
        "better_timing": better_timing,
        "loading": Loading(now.cache, now.workers, 8, read_fraction, "device"),
        "copy_ms": copy_ms,
        "on_cuda": on_cuda,
    }


@pytest.mark.parametrize(
    ("findings", "bottleneck", "words"),
    [
        # 17 of 29 ms are decoding; a step of 12 ms remains
        (found(DECODING, Timing(17, 12, 29)), "decoding", ["the main process", "59 %"]),
        (found(DECODING, Timing(17, 12, 29), read_fraction=0.8), "reading", ["59 %"]),
        (found(DECODING, Timing(17, 12, 29), read_fraction=math.nan), "decoding", ["59 %"]),
        (found(DECODING._replace(workers=2), Timing(17, 12, 29)), "decoding", ["2 workers on 8 cores"]),
        (found(DECODING._replace(cache="disk", workers=2), Timing(9, 12, 21)), "reading", ["the disk cache"]),
        # the step takes 30 ms instead of 12, the loader 1: 18 of 31
        (
            found(DECODING._replace(form=PLAIN), Timing(1, 30, 31)),
            "step",
            ["58 %", "32-true, channels last, eager"],
        ),
        # both are bad, the loader is worse
        (found(DECODING._replace(form=PLAIN), Timing(40, 30, 70)), "decoding", ["57 %"]),
        (found(CACHED, Timing(0.1, 12, 12.2)), None, []),
        (found(CACHED, Timing(0.1, 12, 15)), "host", ["20 %"]),
        # on CUDA a loader that is faster than the step costs nothing
        (found(DECODING, Timing(11, 12, 12.2), on_cuda=True), None, []),
        (found(DECODING, Timing(19, 12, 20), on_cuda=True), "decoding", ["40 %"]),
        (found(DECODING, Timing(5, 12, 16), on_cuda=True, copy_ms=3), "copy", ["25 %"]),
        (found(DECODING, Timing(5, 12, 16), on_cuda=True, copy_ms=0.1), "host", ["25 %"]),
    ],
)
def test_the_bottleneck_is_what_costs_most(
    findings: Findings, bottleneck: Cause | None, words: list[str]
) -> None:
    verdict = judge(**findings)
    assert verdict.bottleneck == bottleneck
    for word in words:
        assert word in verdict.sentence


def test_what_is_gained_is_the_ratio_of_what_was_measured_together() -> None:
    verdict = judge(**found(DECODING, Timing(17, 12, 29), better_timing=Timing(0.1, 12, 14.5)))
    assert verdict.gain == 2.0
    assert verdict.options == {"data.cache": "device", "data.num_workers": "auto"}


def test_nothing_is_recommended_that_is_not_faster() -> None:
    for together_ms in (29.0, 28.5, 40.0):  # 1.017 times as fast at most
        verdict = judge(**found(DECODING, Timing(17, 12, 29), better_timing=Timing(0.1, 12, together_ms)))
        assert (verdict.options, verdict.gain) == ({}, 1.0)
        assert verdict.bottleneck == "decoding"  # it is named all the same
    assert judge(**found(CACHED, Timing(0.1, 12, 15), better_timing=Timing(0.1, 12, 12))).options == {}


@pytest.mark.parametrize(
    ("now", "better", "expected"),
    [
        (CACHED, CACHED, ""),
        (DECODING, DECODING._replace(workers=2), "--data.num_workers 2"),
        (DECODING._replace(workers=4), CACHED, "--data.cache device --data.num_workers auto"),
        (
            CACHED._replace(form=Form("32-true", False, False)),
            CACHED,
            "--trainer.precision bf16-mixed --model.channels_last true --model.compile augmentation",
        ),
        (CACHED, CACHED._replace(form=FAST._replace(compile="default")), "--model.compile default"),
        (CACHED._replace(form=FAST._replace(compile="default")), CACHED, "--model.compile augmentation"),
        (CACHED, CACHED._replace(form=FAST._replace(compile=False)), "--model.compile false"),
        (CACHED, CACHED._replace(form=FAST._replace(channels_last=False)), "--model.channels_last false"),
    ],
)
def test_the_options_lead_from_one_plan_to_the_other(now: Plan, better: Plan, expected: str) -> None:
    assert command_line(changed_options(now, better)) == expected


def test_a_faster_loader_has_to_be_noticed() -> None:
    assert is_worthwhile(2.0, 0.1, 20.0, on_cuda=False)
    assert not is_worthwhile(0.5, 0.1, 20.0, on_cuda=False)  # 2 % of the step
    assert is_worthwhile(17.0, 1.0, 20.0, on_cuda=True)
    assert not is_worthwhile(10.0, 1.0, 20.0, on_cuda=True)  # hidden behind the step


def timed(precision: Precision, ms: float, compile: bool = False, loss: float = 1.0) -> StepTime:
    form = Form(precision, channels_last=True, compile="default" if compile else "augmentation")
    return StepTime(form, 16, ms, 5, loss)


@pytest.mark.parametrize(
    ("times", "on_cuda", "expected"),
    [
        # fp16 of an old GPU gives NaN, or a loss that is off
        ([timed("32-true", 100), timed("16-mixed", 40, loss=math.nan)], True, "32-true"),
        ([timed("32-true", 100), timed("16-mixed", 40, loss=math.inf)], True, "32-true"),
        ([timed("32-true", 100), timed("16-mixed", 40, loss=1.06)], True, "32-true"),
        ([timed("32-true", 100), timed("16-mixed", 40, loss=0.94)], True, "32-true"),
        ([timed("32-true", 100), timed("16-mixed", 40, loss=1.04)], True, "16-mixed"),
        # fp16 has to be 10 % faster than bf16: 100 against 108 is not, against 112 is
        ([timed("bf16-mixed", 108), timed("16-mixed", 100)], True, "bf16-mixed"),
        ([timed("bf16-mixed", 112), timed("16-mixed", 100)], True, "16-mixed"),
        # as fast as each other: fp32 on a CPU, bf16 for its memory on CUDA
        ([timed("32-true", 102), timed("bf16-mixed", 100)], False, "32-true"),
        ([timed("32-true", 100), timed("bf16-mixed", 102)], True, "bf16-mixed"),
        ([timed("32-true", 104), timed("bf16-mixed", 100)], False, "bf16-mixed"),
    ],
)
def test_the_fastest_form_with_a_right_loss(times: list[StepTime], on_cuda: bool, expected: str) -> None:
    best = fastest(times, on_cuda)
    assert best is not None and best.form.precision == expected


def test_compiling_the_network_has_to_pay() -> None:
    eager = timed("32-true", 100)
    for ms, compiled in ((98, False), (90, True)):
        best = fastest([eager, timed("32-true", ms, compile=True)], on_cuda=False)
        assert best is not None and best.form.compiles_network is compiled


def test_a_form_that_failed_is_never_the_fastest() -> None:
    failed = replace(timed("32-true", math.nan), failure="OutOfMemoryError: no")
    assert fastest([failed], on_cuda=True) is None
    slow = timed("bf16-mixed", 500)
    assert fastest([failed, slow], on_cuda=True) == slow


def test_the_forms_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for has_bf16, device, expected in (
        (False, "cpu", {"32-true"}),
        (True, "cpu", {"32-true", "bf16-mixed"}),
        (False, "cuda:0", {"32-true", "16-mixed"}),
        (True, "cuda:0", {"32-true", "16-mixed", "bf16-mixed"}),
    ):
        monkeypatch.setattr(plans, "has_native_bf16", lambda _, has_bf16=has_bf16: has_bf16)
        forms = eager_forms(device, "augmentation")
        assert {form.precision for form in forms} == expected
        assert len(forms) == 2 * len(expected)
        assert not any(form.compiles_network for form in forms)
