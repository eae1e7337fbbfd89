from __future__ import annotations

import math
import re
from typing import get_args

import pytest

from yolo_lightning.data.loading.facts import Loading
from yolo_lightning.performance.diagnosis import (
    Cause,
    EpochMeasurements,
    Recompilation,
    advise_copying,
    advise_loading,
    advise_recompilations,
    diagnose,
)

EPOCH = EpochMeasurements(seconds=100.0, data_wait_fraction=0.0, step_ms=50.0)
DECODING = Loading(cache="none", workers=2, cores=8, read_fraction=0.1, fitting_cache="disk")
AGAIN = Recompilation("training_losses", "0/0: tensor 'images' size mismatch", 30.0)


def options(text: str) -> dict[str, str]:
    """The options that a sentence says to set, with their values."""
    return dict(re.findall(r"--((?:data|model)\.\w+) (\w+)", text))


def test_no_loss_is_no_line() -> None:
    assert diagnose(EPOCH) is None
    assert (
        diagnose(EPOCH._replace(device_idle_fraction=0.0, launch_bound_fraction=0.0, loading=DECODING))
        is None
    )


@pytest.mark.parametrize(("part", "told"), [(0.0499, False), (0.05, True), (1.0, True)])
@pytest.mark.parametrize("has_device", [False, True])
def test_a_line_begins_at_five_percent(part: float, told: bool, has_device: bool) -> None:
    epoch = EPOCH._replace(data_wait_fraction=part, device_idle_fraction=part if has_device else None)
    assert (diagnose(epoch) is not None) == told


def test_a_trial_of_less_than_a_second_is_not_judged() -> None:
    epoch = EPOCH._replace(data_wait_fraction=0.9)
    assert diagnose(epoch._replace(seconds=0.9)) is None
    assert diagnose(epoch._replace(seconds=1.1)) is not None


def test_the_line_is_one_sentence_with_figure_cause_and_option() -> None:
    found = diagnose(EPOCH._replace(data_wait_fraction=0.18, loading=DECODING))
    assert found is not None
    assert found.cause == "slow decoding"
    assert found.line == (
        "18 % of this epoch was lost waiting for images: decoding keeps 2 workers on 8 cores busy; set "
        "--data.cache disk (fits) or --data.num_workers 8; 'yolo-lightning doctor' measures which"
    )


def test_a_wait_that_the_device_has_work_for_is_not_told() -> None:
    epoch = EPOCH._replace(data_wait_fraction=0.8, device_idle_fraction=0.01, loading=DECODING)
    assert diagnose(epoch) is None


def test_the_loss_is_what_the_device_idles() -> None:
    found = diagnose(EPOCH._replace(data_wait_fraction=0.4, device_idle_fraction=0.22, loading=DECODING))
    assert found is not None and found.line.startswith("22 % of this epoch was lost waiting for images")


def test_an_idle_device_whose_host_has_the_images_waits_for_the_copy() -> None:
    found = diagnose(EPOCH._replace(data_wait_fraction=0.01, device_idle_fraction=0.2, loading=DECODING))
    assert found is not None
    assert found.cause == "copy"
    assert found.line.startswith("20 % of this epoch was lost with an idle device: the host had the images")
    assert "--data.image_size" in found.line


def test_a_copy_is_spared_where_the_images_fit_on_the_device() -> None:
    assert options(advise_copying(DECODING._replace(fitting_cache="device")).remedy) == {
        "data.cache": "device"
    }
    on_device = DECODING._replace(cache="device", fitting_cache="device")
    assert "--data.image_size" in advise_copying(on_device).remedy
    assert "--data.image_size" in advise_copying(None).remedy


@pytest.mark.parametrize(
    ("cores", "workers", "fitting", "expected"),
    [
        (8, 2, "disk", {"data.cache": "disk", "data.num_workers": "8"}),
        (8, 2, None, {"data.num_workers": "8"}),
        (4, 2, None, {"data.num_workers": "4"}),
        (64, 8, None, {"data.num_workers": "16"}),
        (8, 8, "device", {"data.cache": "device"}),
        (2, 4, "ram", {"data.cache": "ram"}),
    ],
)
def test_slow_decoding(cores: int, workers: int, fitting: str | None, expected: dict[str, str]) -> None:
    advice = advise_loading(Loading("none", workers, cores, 0.2, fitting))
    assert advice.cause == "slow decoding"
    assert options(advice.remedy) == expected
    assert f"{workers} workers on {cores} cores" in advice.why


def test_unknown_reading_is_not_called_decoding_alone() -> None:
    assert advise_loading(DECODING._replace(read_fraction=math.nan)).why.startswith("reading and decoding")
    assert advise_loading(DECODING).why.startswith("decoding")


def test_cores_that_are_full_have_no_option_of_this_kind() -> None:
    advice = advise_loading(Loading("none", 1, 1, 0.0, None))
    assert advice.cause == "cores are full"
    assert "1 worker on 1 core busy, and no cache fits" in advice.why
    assert "smaller on disk" in advice.remedy and "doctor" in advice.remedy
    assert "num_workers" not in advice.remedy


def test_a_main_process_that_loads() -> None:
    advice = advise_loading(Loading("none", 0, 4, 0.1, None))
    assert advice.cause == "main process"
    assert options(advice.remedy) == {"data.num_workers": "4"}
    fits = advise_loading(Loading("disk", 0, 64, 0.9, "device"))
    assert fits.cause == "main process"
    assert options(fits.remedy) == {"data.cache": "device", "data.num_workers": "8"}


@pytest.mark.parametrize("fitting", ["ram", "device"])
def test_a_slow_disk_is_left_alone_where_memory_suffices(fitting: str) -> None:
    advice = advise_loading(Loading("none", 4, 4, 0.8, fitting))
    assert advice.cause == "slow disk"
    assert "reading files takes 80 %" in advice.why
    assert options(advice.remedy) == {"data.cache": fitting}


def test_a_slow_disk_gets_no_cache_of_larger_files() -> None:
    advice = advise_loading(Loading("none", 4, 4, 0.8, "disk"))
    assert advice.cause == "slow disk"
    assert "local disk" in advice.remedy and "--data.root" in advice.remedy
    assert options(advice.remedy) == {"data.num_workers": "8"}  # who waits for a disk needs no core
    most = advise_loading(Loading("none", 8, 4, 0.8, None))
    assert options(most.remedy) == {}
    assert "reading the disk cache" in advise_loading(Loading("disk", 4, 4, 0.8, "disk")).why


def test_a_cache_that_is_in_use_is_not_offered_again() -> None:
    more = advise_loading(Loading("disk", 2, 8, 0.1, "disk"))
    assert more.cause == "slow cache"
    assert options(more.remedy) == {"data.num_workers": "8"}
    full = advise_loading(Loading("ram", 8, 8, 0.1, "disk"))
    assert full.cause == "slow cache"
    assert options(full.remedy) == {}
    assert "more cores" in full.remedy


def test_images_on_the_device_leave_the_host() -> None:
    advice = advise_loading(Loading("device", 0, 8, math.nan, "device"))
    assert advice.cause == "host"
    assert "callbacks" in advice.remedy
    assert options(advice.remedy) == {}


def test_a_loader_without_facts_gets_general_advice() -> None:
    found = diagnose(EPOCH._replace(data_wait_fraction=0.5))
    assert found is not None and found.cause == "unknown loader"
    assert options(found.line) == {}  # another data module has other options


@pytest.mark.parametrize(
    ("bound", "compiled", "told"),
    [
        (0.97, False, True),
        (0.97, True, False),
        (0.97, None, False),
        (0.4, False, False),
        (None, False, False),
    ],
)
def test_a_host_that_launches_too_slowly(bound: float | None, compiled: bool | None, told: bool) -> None:
    found = diagnose(
        EPOCH._replace(device_idle_fraction=0.01, launch_bound_fraction=bound, is_compiled=compiled)
    )
    assert (found is not None) == told
    if found is not None:
        assert found.cause == "launches"
        assert "97 % of the steps" in found.line and "50.0 ms" in found.line
        assert options(found.line) == {"model.compile": "default"}


def test_a_lack_of_images_is_told_before_slow_launches() -> None:
    epoch = EPOCH._replace(data_wait_fraction=0.3, device_idle_fraction=0.3, loading=DECODING)
    found = diagnose(epoch._replace(launch_bound_fraction=1.0, is_compiled=False))
    assert found is not None and found.cause == "slow decoding"


def test_recompilations_are_named() -> None:
    found = diagnose(EPOCH._replace(recompilations=[AGAIN, AGAIN]))
    assert found is not None
    assert found.cause == "recompilation"
    assert found.line.startswith(
        "60 % of this epoch was lost compiling again: 'training_losses' was compiled 2 more times "
        "(0/0: tensor 'images' size mismatch); "
    )
    assert options(found.line) == {"model.compile": "false"}


def test_quick_recompilations_are_no_loss() -> None:
    assert diagnose(EPOCH._replace(recompilations=[AGAIN._replace(seconds=4.9)])) is None


def test_what_costs_more_is_told() -> None:
    waiting = EPOCH._replace(data_wait_fraction=0.7, loading=DECODING)
    found = diagnose(waiting._replace(recompilations=[AGAIN._replace(seconds=6.0)]))
    assert found is not None and found.cause == "slow decoding"
    # A device idles while its host compiles: the same time shows in both.
    found = diagnose(waiting._replace(device_idle_fraction=0.3, recompilations=[AGAIN]))
    assert found is not None and found.cause == "recompilation"


def test_the_function_that_took_longest_is_named() -> None:
    short = Recompilation("core", "something else", 1.0)
    advice = advise_recompilations([short, AGAIN, short])
    assert "'training_losses' was compiled 1 more time (" in advice.why


def test_every_line_is_one_line_of_bounded_length() -> None:
    long = AGAIN._replace(reason="a guard\n  that says\n" + "very much " * 100)
    found = diagnose(EPOCH._replace(recompilations=[long]))
    assert found is not None
    assert "\n" not in found.line and "a guard that says very much" in found.line
    assert len(found.line) < 400


def test_all_loaders_get_a_cause_and_an_option_that_changes_something() -> None:
    causes = set()
    for cache in ("none", "disk", "ram", "device"):
        for fitting in (None, "disk", "ram", "device"):
            for workers in (0, 1, 8):
                for cores in (1, 8):
                    for read_fraction in (0.0, 0.9, math.nan):
                        loading = Loading(cache, workers, cores, read_fraction, fitting)
                        advice = advise_loading(loading)
                        causes.add(advice.cause)
                        # There the option is what to make room for.
                        given = {} if advice.cause == "cores are full" else options(advice.remedy)
                        assert given.get("data.cache") in (None, fitting)
                        assert given.get("data.cache") != cache
                        assert int(given.get("data.num_workers", workers + 1)) > workers
                        assert len(advice.remedy) > 20
    assert causes == {"main process", "slow disk", "slow decoding", "cores are full", "slow cache", "host"}
    assert causes < set(get_args(Cause))
