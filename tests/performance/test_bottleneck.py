from __future__ import annotations

import math
import re
from typing import Any, get_args

import pytest

from yolo_lightning.data.loading.ordered import Loading
from yolo_lightning.performance.bottleneck import (
    Cause,
    Measurements,
    Recompilation,
    advise_busy_cores,
    advise_copying,
    advise_loading,
    advise_recompilations,
    explain_epoch,
    find_bottleneck,
)
from yolo_lightning.performance.busy_cores import BusyCores

EPOCH = Measurements(idle_fraction=0.0, loader_fraction=0.0, seconds=100.0)
DECODING = Loading(cache="none", workers=2, cores=8, read_fraction=0.1, fitting_cache="disk")
AGAIN = Recompilation("training_losses", "0/0: tensor 'images' size mismatch", 30.0)


def waiting(part: float, device_idle: float | None = None, **facts: Any) -> Measurements:
    """An epoch in which the host waited for a part of the time, and the device idled, on a CPU as long."""
    idle = part if device_idle is None else device_idle
    return EPOCH._replace(idle_fraction=idle, loader_fraction=part, **facts)


def options(text: str) -> dict[str, str]:
    """The options that a sentence says to set, with their values."""
    return dict(re.findall(r"--((?:data|model)\.\w+) (\w+)", text))


def test_no_loss_is_no_line() -> None:
    assert explain_epoch(EPOCH) is None
    assert explain_epoch(EPOCH._replace(loading=DECODING)) is None


@pytest.mark.parametrize(("part", "told"), [(0.0499, False), (0.05, True), (1.0, True)])
@pytest.mark.parametrize("has_device", [False, True])
def test_a_line_begins_at_five_percent(part: float, told: bool, has_device: bool) -> None:
    epoch = waiting(0.5 if has_device else part, part if has_device else None)
    assert (explain_epoch(epoch) is not None) == told


@pytest.mark.parametrize(
    ("busy", "idle", "told"),
    [
        (BusyCores(100, 20, 2, 0.5), 0.0, "cores"),
        (BusyCores(100, 19, 2, 0.5), 0.0, None),  # seldom waits
        (BusyCores(100, 60, 2, 0.1), 0.0, None),  # waits for its own workers
        (BusyCores(100, 60, 64, 1 / 64), 0.0, "cores"),  # one program is enough to hold up the others
        (BusyCores(100, 30, 2, 0.5), 0.4, "decoding"),  # the larger loss
        (BusyCores(0, 0, 2, 0.5), 0.0, None),
    ],
)
def test_other_programs_are_told_if_they_hold_the_threads_up(
    busy: BusyCores, idle: float, told: str | None
) -> None:
    found = explain_epoch(waiting(idle, busy_cores=busy, loading=DECODING))
    assert (found and found[0]) == told


@pytest.mark.parametrize(("cores", "taken", "threads"), [(2, 0.48, 1), (16, 0.1, 14), (4, 1.0, 1)])
def test_as_many_threads_are_proposed_as_cores_are_free(cores: int, taken: float, threads: int) -> None:
    found = advise_busy_cores(BusyCores(10, 5, cores, taken, "a\x1b[2J (process 3)"))
    assert f"OMP_NUM_THREADS={threads} " in found.remedy
    assert "most of it a?[2J (process 3)" in found.loss


def test_a_trial_of_less_than_a_second_is_not_judged() -> None:
    assert explain_epoch(waiting(0.9, seconds=0.9)) is None
    assert explain_epoch(waiting(0.9, seconds=1.1)) is not None


def test_the_line_is_one_sentence_with_figure_cause_and_option() -> None:
    found = explain_epoch(waiting(0.18, loading=DECODING))
    assert found is not None
    assert found[0] == "decoding"
    assert found[1] == (
        "18 % of this epoch was lost waiting for images: decoding keeps 2 workers on 8 cores busy; set "
        "--data.cache disk (fits) or --data.num_workers 8; 'yolo-lightning doctor' measures which"
    )


def test_a_wait_that_the_device_has_work_for_is_not_told() -> None:
    epoch = waiting(0.8, 0.01, loading=DECODING)
    assert explain_epoch(epoch) is None


def test_the_loss_is_what_the_device_idles() -> None:
    found = explain_epoch(waiting(0.4, 0.22, loading=DECODING))
    assert found is not None and found[1].startswith("22 % of this epoch was lost waiting for images")


def test_an_idle_device_whose_host_has_the_images_waits_for_the_copy() -> None:
    found = explain_epoch(waiting(0.01, 0.2, loading=DECODING))
    assert found is not None
    assert found[0] == "copy"
    assert found[1].startswith("20 % of this epoch was lost with an idle device: the host had the images")
    assert "--data.image_size" in found[1]


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
    assert advice.cause == "decoding"
    assert options(advice.remedy) == expected
    assert f"{workers} workers on {cores} cores" in advice.why


def test_unknown_reading_is_not_called_decoding_alone() -> None:
    assert advise_loading(DECODING._replace(read_fraction=math.nan)).why.startswith("reading and decoding")
    assert advise_loading(DECODING).why.startswith("decoding")


def test_cores_that_are_full_have_no_option_of_this_kind() -> None:
    advice = advise_loading(Loading("none", 1, 1, 0.0, None))
    assert advice.cause == "decoding"
    assert "1 worker on 1 core busy, and no cache fits" in advice.why
    assert "smaller on disk" in advice.remedy and "doctor" in advice.remedy
    assert "num_workers" not in advice.remedy


def test_a_main_process_that_loads() -> None:
    advice = advise_loading(Loading("none", 0, 4, 0.1, None))
    assert advice.cause == "decoding"
    assert options(advice.remedy) == {"data.num_workers": "4"}
    fits = advise_loading(Loading("disk", 0, 64, 0.9, "device"))
    assert fits.cause == "reading"
    assert options(fits.remedy) == {"data.cache": "device", "data.num_workers": "8"}


@pytest.mark.parametrize("fitting", ["ram", "device"])
def test_a_slow_disk_is_left_alone_where_memory_suffices(fitting: str) -> None:
    advice = advise_loading(Loading("none", 4, 4, 0.8, fitting))
    assert advice.cause == "reading"
    assert "reading files takes 80 %" in advice.why
    assert options(advice.remedy) == {"data.cache": fitting}


def test_a_slow_disk_gets_no_cache_of_larger_files() -> None:
    advice = advise_loading(Loading("none", 4, 4, 0.8, "disk"))
    assert advice.cause == "reading"
    assert "local disk" in advice.remedy and "--data.root" in advice.remedy
    assert options(advice.remedy) == {"data.num_workers": "8"}  # who waits for a disk needs no core
    most = advise_loading(Loading("none", 8, 4, 0.8, None))
    assert options(most.remedy) == {}
    assert "reading the disk cache" in advise_loading(Loading("disk", 4, 4, 0.8, "disk")).why


def test_a_cache_that_is_in_use_is_not_offered_again() -> None:
    more = advise_loading(Loading("disk", 2, 8, 0.1, "disk"))
    assert more.cause == "reading"
    assert options(more.remedy) == {"data.num_workers": "8"}
    full = advise_loading(Loading("ram", 8, 8, 0.1, "disk"))
    assert full.cause == "reading"
    assert options(full.remedy) == {}
    assert "more cores" in full.remedy


def test_images_on_the_device_leave_the_host() -> None:
    advice = advise_loading(Loading("device", 0, 8, math.nan, "device"))
    assert advice.cause == "host"
    assert "callbacks" in advice.remedy
    assert options(advice.remedy) == {}


def test_a_loader_without_facts_gets_general_advice() -> None:
    found = explain_epoch(waiting(0.5))
    assert found is not None and found[0] == "loader"
    assert options(found[1]) == {}  # another data module has other options


def test_recompilations_are_named() -> None:
    found = explain_epoch(EPOCH._replace(recompilations=[AGAIN, AGAIN]))
    assert found is not None
    assert found[0] == "recompilation"
    assert found[1].startswith(
        "60 % of this epoch was lost compiling again: 'training_losses' was compiled 2 more times "
        "(0/0: tensor 'images' size mismatch); "
    )
    assert options(found[1]) == {"model.compile": "false"}


def test_quick_recompilations_are_no_loss() -> None:
    assert explain_epoch(EPOCH._replace(recompilations=[AGAIN._replace(seconds=4.9)])) is None


def test_what_costs_more_is_told() -> None:
    found = explain_epoch(waiting(0.7, loading=DECODING, recompilations=[AGAIN._replace(seconds=6.0)]))
    assert found is not None and found[0] == "decoding"
    # A device idles while its host compiles: the same time shows in both.
    found = explain_epoch(waiting(0.7, 0.3, loading=DECODING, recompilations=[AGAIN]))
    assert found is not None and found[0] == "recompilation"


def test_the_function_that_took_longest_is_named() -> None:
    short = Recompilation("core", "something else", 1.0)
    advice = advise_recompilations([short, AGAIN, short])
    assert "'training_losses' was compiled 1 more time (" in advice.why


def test_every_line_is_one_line_of_bounded_length() -> None:
    long = AGAIN._replace(reason="a guard\n  that says\n" + "very much " * 100)
    found = explain_epoch(EPOCH._replace(recompilations=[long]))
    assert found is not None
    assert "\n" not in found[1] and "a guard that says very much" in found[1]
    assert len(found[1]) < 400


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
                        given = {} if "make room" in advice.remedy else options(advice.remedy)
                        assert given.get("data.cache") in (None, fitting)
                        assert given.get("data.cache") != cache
                        assert int(given.get("data.num_workers", workers + 1)) > workers
                        assert len(advice.remedy) > 20
    assert causes == {"decoding", "reading", "host"}
    assert causes < set(get_args(Cause))


@pytest.mark.parametrize(
    ("measured", "cause", "words"),
    [
        # the step takes 30 ms instead of 12, the loader 1: 18 of 31
        (
            Measurements(1 / 31, 1 / 31, slow_step_fraction=18 / 31, step_form="fp32", loading=DECODING),
            "step",
            ["58 % of the time was lost in the training step", "computed as fp32"],
        ),
        # both are bad, the loader is worse
        (Measurements(0.57, 0.57, slow_step_fraction=0.2, loading=DECODING), "decoding", ["57 %"]),
        (Measurements(0.25, 0.1, copy_fraction=0.2), "copy", ["25 %"]),
        (Measurements(0.25, 0.1, copy_fraction=0.01), "host", ["25 %", "between two steps"]),
    ],
)
def test_a_measured_step_and_a_measured_copy_are_told_apart(
    measured: Measurements, cause: str, words: list[str]
) -> None:
    found = find_bottleneck(measured, "the time")
    assert found is not None and found.cause == cause
    for word in words:
        assert word in f"{found.loss}: {found.why}"
