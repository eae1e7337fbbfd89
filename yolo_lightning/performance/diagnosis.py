"""What an epoch lost time to, and the option that gives it back: pure functions of measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from ..data.images.choose_cache import CACHE_MODES
from ..data.loading.facts import Loading
from ..system.text import one_line

LOSS_THRESHOLD = 0.05
"""Part of an epoch, 0..1, below which a loss is not worth a word."""
SHORTEST_EPOCH_S = 1.0
"""Of a shorter epoch nothing is said: starting it takes a good part of it."""
_SLOW_READING = 0.5
"""Part of the loader's time, 0..1, from which reading is the cause and not decoding."""

Cause = Literal[
    "unknown loader",
    "main process",
    "slow disk",
    "slow decoding",
    "cores are full",
    "slow cache",
    "host",
    "copy",
    "launches",
    "recompilation",
]




class Recompilation(NamedTuple):
    """A function that torch.compile had compiled before and compiled again."""

    function: str
    """Name of the function."""
    reason: str
    """What was not as before, in the words of torch."""
    seconds: float
    """How long it took; the backward pass included where that was compiled too."""


class EpochMeasurements(NamedTuple):
    """What was measured in an epoch of training, without its validation."""

    seconds: float
    """Duration of all steps and all waits."""
    data_wait_fraction: float
    """Part of it that the host waited for batches, 0..1."""
    step_ms: float
    """Mean time of the host in a step, without the wait, in ms."""
    device_idle_fraction: float | None = None
    """Part of it that the device had nothing to do between two steps, 0..1; None on a CPU."""
    launch_bound_fraction: float | None = None
    """Part of the steps that the device finished as fast as the host launched them, 0..1; None on a CPU."""
    is_compiled: bool | None = None
    """Whether the network is compiled; None where that is unknown."""
    recompilations: Sequence[Recompilation] = ()
    """Those of this epoch."""
    loading: Loading | None = None
    """Facts of the loader, where it has any."""


class Advice(NamedTuple):
    """Why a part is slow, and what to do."""

    cause: Cause
    why: str
    """A clause that names the cause."""
    remedy: str
    """A clause that names the options to change, with their values."""


class Diagnosis(NamedTuple):
    """What an epoch lost most time to."""

    cause: Cause
    line: str
    """A sentence of one line for the user."""


def diagnose(epoch: EpochMeasurements) -> Diagnosis | None:
    """Name what an epoch lost most time to, and the option to change.

    Returns:
        None where less than 5 % was lost, or the epoch was too short to tell.
    """
    if epoch.seconds < SHORTEST_EPOCH_S:
        return None
    idle = epoch.device_idle_fraction
    # A wait that the device still has work for costs nothing.
    waiting = epoch.data_wait_fraction if idle is None else idle
    recompiling = min(1.0, sum(r.seconds for r in epoch.recompilations) / epoch.seconds)
    if recompiling >= LOSS_THRESHOLD and recompiling >= waiting / 2:  # the device idles meanwhile
        return _lost(recompiling, "compiling again", advise_recompilations(epoch.recompilations))
    if waiting >= LOSS_THRESHOLD and epoch.data_wait_fraction < waiting / 2:
        return _lost(waiting, "with an idle device", advise_copying(epoch.loading))
    if waiting >= LOSS_THRESHOLD:
        return _lost(waiting, "waiting for images", advise_loading(epoch.loading))
    if (epoch.launch_bound_fraction or 0) > 0.5 and epoch.is_compiled is False:
        return Diagnosis(
            "launches",
            f"in {100 * (epoch.launch_bound_fraction or 0):.0f} % of the steps of this epoch the device was "
            f"done as soon as the host, which takes {epoch.step_ms:.1f} ms to launch a step: "
            + _set(["--model.compile default"]),
        )
    return None


def _lost(part: float, to: str, advice: Advice) -> Diagnosis:
    line = f"{100 * part:.0f} % of this epoch was lost {to}: {advice.why}; {advice.remedy}"
    return Diagnosis(advice.cause, line)


def advise_loading(loading: Loading | None) -> Advice:
    """Why a loader is slower than the step, and which option to change.

    Args:
        loading: its facts; None for a loader that tells none.
    """
    if loading is None:
        return Advice(
            "unknown loader",
            "the loader is slower than the training step",
            "give it more worker processes, or let it keep decoded images",
        )
    if loading.cache == "device":
        return Advice(
            "host",
            "the images are on the device already, so the time went to the host between two steps",
            "look for callbacks that do much after each batch, and for other programs on "
            f"the {_count(loading.cores, 'core')} of this process",
        )
    if loading.workers == 0:
        remedies = [*_better_cache(loading), *_more_workers(loading)]
        return Advice("main process", "the main process loads the images between two steps", _set(remedies))
    if loading.read_fraction >= _SLOW_READING:
        return _advise_reading(loading)
    return _advise_decoding(loading)


def _advise_reading(loading: Loading) -> Advice:
    what = "files" if loading.cache == "none" else f"the {loading.cache} cache"
    why = f"reading {what} takes {100 * loading.read_fraction:.0f} % of the loader's time: the disk is slow"
    # Decoded images are larger than their files: kept on the same disk, they are read no faster.
    in_memory = [option for option in _better_cache(loading) if "disk" not in option]
    if in_memory:
        return Advice("slow disk", why, _set(in_memory))
    overlap = f"--data.num_workers {min(2 * loading.workers, 2 * loading.cores)}"
    more = f", or set {overlap}, since reads wait side by side" if loading.workers < 2 * loading.cores else ""
    return Advice(
        "slow disk", why, f"copy the data set to a local disk and give it as --data.root{more}; {_DOCTOR}"
    )


def _advise_decoding(loading: Loading) -> Advice:
    busy = f"{_count(loading.workers, 'worker')} on {_count(loading.cores, 'core')} busy"
    remedies = [*_better_cache(loading), *_more_workers(loading)]
    if loading.cache != "none":
        why = f"copying images from the {loading.cache} cache keeps {busy}"
        remedy = _set(remedies) if remedies else f"give this process more cores; {_DOCTOR}"
        return Advice("slow cache", why, remedy)
    work = "reading and decoding keep" if math.isnan(loading.read_fraction) else "decoding keeps"
    if remedies:
        return Advice("slow decoding", f"{work} {busy}", _set(remedies))
    return Advice(
        "cores are full",
        f"{work} {busy}, and no cache fits",
        "make the images smaller on disk, make room for --data.cache disk, or give this process more cores; "
        + _DOCTOR,
    )


_DOCTOR = "'yolo-lightning doctor' measures it"


def _set(options: Sequence[str]) -> str:
    which = _DOCTOR if len(options) == 1 else "'yolo-lightning doctor' measures which"
    return f"set {' or '.join(options)}; {which}"


def _better_cache(loading: Loading) -> list[str]:
    """The option for a faster cache than the present one, if one fits."""
    fitting = loading.fitting_cache
    if fitting is None or CACHE_MODES.index(fitting) <= CACHE_MODES.index(loading.cache):
        return []
    return [f"--data.cache {fitting} (fits)"]


def _more_workers(loading: Loading) -> list[str]:
    """The option for more workers, if there are cores for them; at most twice as many at once."""
    workers = min(loading.cores, max(8, 2 * loading.workers))
    return [f"--data.num_workers {workers}"] if workers > loading.workers else []


def advise_copying(loading: Loading | None) -> Advice:
    """What to do where the host has its batches in time and the device has not."""
    fits = loading is not None and loading.fitting_cache == "device" and loading.cache != "device"
    remedy = _set(["--data.cache device (fits)"]) if fits else f"give a smaller --data.image_size; {_DOCTOR}"
    return Advice("copy", "the host had the images in time, their way to the device is slow", remedy)


def advise_recompilations(recompilations: Sequence[Recompilation]) -> Advice:
    """Name the function that was compiled again for longest, and why.

    Args:
        recompilations: at least one.
    """
    seconds: dict[str, float] = {}
    for each in recompilations:
        seconds[each.function] = seconds.get(each.function, 0.0) + each.seconds
    function = max(seconds, key=lambda name: seconds[name])
    reasons = [r.reason for r in recompilations if r.function == function]
    why = f"'{function}' was compiled {_count(len(reasons), 'more time')} ({one_line(reasons[-1])})"
    return Advice(
        "recompilation",
        why,
        "keep image sizes, label capacity and modes as they are during a run, or set --model.compile false",
    )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
