from __future__ import annotations

import math
from dataclasses import replace

import pytest

from yolo_lightning.performance.doctor.candidates import Candidate
from yolo_lightning.performance.doctor.verdict import (
    Bottleneck,
    Findings,
    Plan,
    Timing,
    changed_options,
    epoch_seconds,
    fragment,
    judge,
    pays,
    with_compiled_step,
)

FAST = Candidate("bf16-mixed", channels_last=True, compile=False)
PLAIN = Candidate("32-true", channels_last=True, compile=False)
CACHED = Plan("device", 0, FAST, compile_augmentation=True)
CACHED_TIMING = Timing(0.1, 12.0, 12.1)
DECODING = Plan("none", 0, FAST, compile_augmentation=True)


def found(
    now: Plan,
    timing: Timing,
    better: Plan = CACHED,
    better_timing: Timing = CACHED_TIMING,
    read_fraction: float = 0.1,
    on_cuda: bool = False,
    copy_ms: float = 0.0,
) -> Findings:
    return Findings(on_cuda, now, timing, better, better_timing, read_fraction, copy_ms)


@pytest.mark.parametrize(
    ("findings", "bottleneck", "words"),
    [
        # 17 of 29 ms are decoding; a step of 12 ms remains
        (found(DECODING, Timing(17, 12, 29)), "decoding", ["in the main process", "59 %"]),
        (found(DECODING, Timing(17, 12, 29), read_fraction=0.8), "reading", ["80 % of the loader's time"]),
        (found(DECODING, Timing(17, 12, 29), read_fraction=math.nan), "decoding", ["59 %"]),
        (found(DECODING._replace(workers=2), Timing(17, 12, 29)), "decoding", ["2 worker processes"]),
        (found(DECODING._replace(cache="disk"), Timing(9, 12, 21)), "reading", ["the disk cache"]),
        # the step takes 30 ms instead of 12, the loader 1: 18 of 31
        (
            found(DECODING._replace(candidate=PLAIN, compile_augmentation=False), Timing(1, 30, 31)),
            "step",
            ["58 %", "precision 32-true with compile false"],
        ),
        # both are bad, the loader is worse
        (found(DECODING._replace(candidate=PLAIN), Timing(40, 30, 70)), "decoding", ["57 %"]),
        (found(CACHED, Timing(0.1, 12, 12.2)), "none", []),
        (found(CACHED, Timing(0.1, 12, 15)), "host", ["20 %"]),
        # on CUDA a loader that is faster than the step costs nothing
        (found(DECODING, Timing(11, 12, 12.2), on_cuda=True), "none", []),
        (found(DECODING, Timing(19, 12, 20), on_cuda=True), "decoding", ["40 %"]),
        (found(DECODING, Timing(5, 12, 16), on_cuda=True, copy_ms=3), "copy", ["25 %"]),
        (found(DECODING, Timing(5, 12, 16), on_cuda=True, copy_ms=0.1), "host", ["25 %"]),
    ],
)
def test_the_bottleneck_is_what_costs_most(
    findings: Findings, bottleneck: Bottleneck, words: list[str]
) -> None:
    verdict = judge(findings)
    assert verdict.bottleneck == bottleneck
    for word in words:
        assert word in verdict.sentence


def test_what_is_gained_is_the_ratio_of_what_was_measured_together() -> None:
    verdict = judge(found(DECODING, Timing(17, 12, 29), better_timing=Timing(0.1, 12, 14.5)))
    assert verdict.gain == 2.0
    assert verdict.options == {"data.cache": "device", "data.num_workers": "auto"}


def test_nothing_is_recommended_that_is_not_faster() -> None:
    for together_ms in (29.0, 28.5, 40.0):  # 1.017 times as fast at most
        verdict = judge(found(DECODING, Timing(17, 12, 29), better_timing=Timing(0.1, 12, together_ms)))
        assert (verdict.options, verdict.gain) == ({}, 1.0)
        assert verdict.bottleneck == "decoding"  # it is named all the same
    assert judge(found(CACHED, Timing(0.1, 12, 15), better_timing=Timing(0.1, 12, 12))).options == {}


@pytest.mark.parametrize(
    ("now", "better", "expected"),
    [
        (CACHED, CACHED, ""),
        (DECODING, DECODING._replace(workers=2), "--data.num_workers 2"),
        (DECODING._replace(workers=4), CACHED, "--data.cache device --data.num_workers auto"),
        (
            CACHED._replace(candidate=Candidate("32-true", False, False), compile_augmentation=False),
            CACHED,
            "--trainer.precision bf16-mixed --model.channels_last true --model.compile augmentation",
        ),
        (CACHED, CACHED._replace(candidate=replace(FAST, compile=True)), "--model.compile default"),
        (CACHED._replace(candidate=replace(FAST, compile=True)), CACHED, "--model.compile augmentation"),
        (CACHED, CACHED._replace(compile_augmentation=False), "--model.compile false"),
        (
            CACHED,
            CACHED._replace(candidate=replace(FAST, channels_last=False)),
            "--model.channels_last false",
        ),
    ],
)
def test_the_options_lead_from_one_plan_to_the_other(now: Plan, better: Plan, expected: str) -> None:
    assert fragment(changed_options(now, better)) == expected


def test_a_compiled_step_shortens_the_whole_by_what_it_saves() -> None:
    # 20 ms become 15: 5 are saved of 26
    assert with_compiled_step(Timing(6, 20, 26), 0.75) == Timing(6, 15, 21)


def test_a_faster_loader_has_to_be_noticed() -> None:
    assert pays(2.0, 0.1, 20.0, on_cuda=False)
    assert not pays(0.5, 0.1, 20.0, on_cuda=False)  # 2 % of the step
    assert pays(17.0, 1.0, 20.0, on_cuda=True)
    assert not pays(10.0, 1.0, 20.0, on_cuda=True)  # hidden behind the step


def test_the_duration_of_an_epoch() -> None:
    assert epoch_seconds(208, 25.0) == 5.2
    assert math.isnan(epoch_seconds(208, math.nan))
