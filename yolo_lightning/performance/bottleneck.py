"""Bottleneck of a training, and the option that removes it: pure functions of measurements."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal, NamedTuple

from ..data.images.choose_cache import CACHE_MODES
from ..data.loading.ordered import Loading
from ..system.text import one_line, printable
from .busy_cores import BusyCores

LOSS_THRESHOLD = 0.05
"""Part of the time, 0..1, below which a loss is not reported."""
SHORTEST_EPOCH_S = 1.0
"""Epochs shorter than this are not judged: starting them takes a good part of them."""
_HELD_UP = 0.2  # seconds that threads wait for a core, a second of wall time, from which it is told
_ONE_PROGRAM = 0.25  # part of one core, 0..1, below which other programs are not the cause
_SLOW_READING = 0.5  # part of the loader's time, 0..1, from which reading is the cause and not decoding
_DOCTOR = "'yolo-lightning doctor' measures it"

Cause = Literal["reading", "decoding", "copy", "host", "step", "recompilation", "loader", "cores"]


class Recompilation(NamedTuple):
    """A function that torch.compile had compiled before and compiled again."""

    function: str
    reason: str  # guard that failed, in the words of torch
    seconds: float  # duration, with that of the backward pass if it was compiled too


class Measurements(NamedTuple):
    """Parts of the training time, 0..1, and the facts that explain them."""

    idle_fraction: float  # time between two steps, in which the device has nothing to do
    loader_fraction: float  # time that the loader accounts for
    copy_fraction: float | None = None  # time that the copy to the device accounts for; None: not measured
    slow_step_fraction: float = 0.0  # time that the fastest form of the step would save, if one was measured
    step_form: str = ""  # form of the present step
    seconds: float = math.nan  # duration of all steps and all waits
    recompilations: Sequence[Recompilation] = ()
    loading: Loading | None = None
    busy_cores: BusyCores | None = None  # what other programs took; None: not measured


class Advice(NamedTuple):
    """Why a part is slow, and what to do."""

    cause: Cause
    why: str  # a clause that names the cause
    remedy: str  # a clause that names the options to change, with their values
    loss: str = ""  # a clause with the part of the time that was lost, once that is known


def find_bottleneck(measured: Measurements, period: str) -> Advice | None:
    """Name the largest loss of time, its cause, and the option to change; None if less than 5 % was lost.

    Args:
        measured: parts of the time.
        period: name of the time that was measured, for the clause.
    """

    def lost(part: float, to: str, advice: Advice) -> Advice:
        return advice._replace(loss=f"{100 * part:.0f} % of {period} was lost {to}")

    idle, copying = measured.idle_fraction, measured.copy_fraction
    slow_step = measured.slow_step_fraction
    recompiling_s = sum(each.seconds for each in measured.recompilations)
    recompiling = min(1.0, recompiling_s / measured.seconds) if recompiling_s else 0.0
    if recompiling >= LOSS_THRESHOLD and recompiling >= idle / 2:  # the device idles meanwhile
        return lost(recompiling, "compiling again", advise_recompilations(measured.recompilations))
    if (busy := measured.busy_cores) and _held_up(busy) >= max(_HELD_UP, idle):
        return advise_busy_cores(busy)
    if slow_step >= LOSS_THRESHOLD and slow_step > idle:
        why = f"it is computed as {measured.step_form}, and another form is faster"
        return lost(slow_step, "in the training step", Advice("step", why, _DOCTOR))
    if idle >= LOSS_THRESHOLD and measured.loader_fraction >= idle / 2:
        return lost(idle, "waiting for images", advise_loading(measured.loading))
    if idle >= LOSS_THRESHOLD and (copying is None or copying >= idle / 2):
        return lost(idle, "with an idle device", advise_copying(measured.loading))
    if idle >= LOSS_THRESHOLD:
        why = "neither loading nor copying takes that long"
        return lost(idle, "between two steps", advise_host(measured.loading, why))
    return None


def explain_epoch(epoch: Measurements) -> tuple[Cause, str] | None:
    """Put the bottleneck of an epoch into its cause and one line for the user.

    None if less than 5 % was lost or the epoch was too short to judge.
    """
    found = find_bottleneck(epoch, "this epoch") if epoch.seconds >= SHORTEST_EPOCH_S else None
    return (found.cause, f"{found.loss}: {found.why}; {found.remedy}") if found else None


def advise_loading(loading: Loading | None) -> Advice:
    """Explain why a loader is slower than the step, and name the option to change."""
    if loading is None:
        remedy = "give it more worker processes, or let it keep decoded images"
        return Advice("loader", "the loader is slower than the training step", remedy)
    if loading.cache == "device":
        reason = "the images are on the device already, so the time went to the host between two steps"
        return advise_host(loading, reason)
    if loading.workers == 0:
        is_reading = loading.cache != "none" or loading.read_fraction >= _SLOW_READING
        cause: Cause = "reading" if is_reading else "decoding"
        return Advice(cause, "the main process loads the images between two steps", _set(_faster(loading)))
    if loading.read_fraction >= _SLOW_READING:
        return _advise_reading(loading)
    return _advise_decoding(loading)


def _advise_reading(loading: Loading) -> Advice:
    what = "files" if loading.cache == "none" else f"the {loading.cache} cache"
    why = f"reading {what} takes {100 * loading.read_fraction:.0f} % of the loader's time: the disk is slow"
    # Decoded images are larger than their files: kept on the same disk, they are read no faster.
    in_memory = [option for option in _faster(loading) if "cache" in option and "disk" not in option]
    if in_memory:
        return Advice("reading", why, _set(in_memory))
    remedy = "copy the data set to a local disk and give it as --data.root"
    if loading.workers < 2 * loading.cores:
        workers = 2 * min(loading.workers, loading.cores)
        remedy += f", or set --data.num_workers {workers}, since reads wait side by side"
    return Advice("reading", why, f"{remedy}; {_DOCTOR}")


def _advise_decoding(loading: Loading) -> Advice:
    busy = f"{_count(loading.workers, 'worker')} on {_count(loading.cores, 'core')} busy"
    cores = "give this process more cores"
    remedies = _faster(loading)
    if loading.cache != "none":
        why = f"copying images from the {loading.cache} cache keeps {busy}"
        remedy = _set(remedies) if remedies else f"{cores}; {_DOCTOR}"
        return Advice("reading", why, remedy)
    work = "reading and decoding keep" if math.isnan(loading.read_fraction) else "decoding keeps"
    if remedies:
        return Advice("decoding", f"{work} {busy}", _set(remedies))
    remedy = "make the images smaller on disk, make room for --data.cache disk"
    return Advice("decoding", f"{work} {busy}, and no cache fits", f"{remedy}, or {cores}; {_DOCTOR}")


def _set(options: Sequence[str]) -> str:
    which = _DOCTOR if len(options) == 1 else "'yolo-lightning doctor' measures which"
    return f"set {' or '.join(options)}; {which}"


def _faster(loading: Loading) -> list[str]:
    """Options for a faster cache that fits, and for more workers if there are cores for them."""
    options = []
    fitting = loading.fitting_cache
    if fitting is not None and CACHE_MODES.index(fitting) > CACHE_MODES.index(loading.cache):
        options.append(f"--data.cache {fitting} (fits)")
    workers = min(loading.cores, max(8, 2 * loading.workers))
    if workers > loading.workers:
        options.append(f"--data.num_workers {workers}")
    return options


def advise_host(loading: Loading | None, why: str) -> Advice:
    """Name what to look for if neither the loader nor the copy is slow."""
    cores = "cores" if loading is None else _count(loading.cores, "core")
    others = f"other programs on the {cores} of this process"
    return Advice("host", why, f"look for callbacks that do much after each batch, and for {others}")


def _held_up(busy: BusyCores) -> float:
    """Seconds a second that threads waited for a core; 0 if other programs are not the cause."""
    return busy.waited_s / busy.seconds if busy.seconds and busy.taken * busy.cores >= _ONE_PROGRAM else 0.0


def advise_busy_cores(busy: BusyCores) -> Advice:
    """Name what other programs take of the cores, and how many threads would have cores of their own."""
    largest = f", most of it {printable(busy.largest)}" if busy.largest else ""
    loss = f"other programs take {100 * busy.taken:.0f} % of the {_count(busy.cores, 'core')}{largest}"
    waited = f"together waited {busy.waited_s:.1f} s for a core"
    why = f"in {busy.seconds:.1f} s the threads of this training {waited}"
    free = max(1, round(busy.cores * (1 - busy.taken)))
    remedy = f"free the cores, or set OMP_NUM_THREADS={free} in the environment"
    return Advice("cores", why, remedy, loss)


def advise_copying(loading: Loading | None) -> Advice:
    """Name the option to change if the host has its batches in time and the device does not."""
    fits = loading is not None and loading.fitting_cache == "device" and loading.cache != "device"
    remedy = _set(["--data.cache device (fits)"]) if fits else f"give a smaller --data.image_size; {_DOCTOR}"
    return Advice("copy", "the host had the images in time, their way to the device is slow", remedy)


def advise_recompilations(recompilations: Sequence[Recompilation]) -> Advice:
    """Name the function that was compiled again for longest, and why; there is at least one."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for each in recompilations:
        seconds[each.function] += each.seconds
    function = max(seconds, key=seconds.__getitem__)
    reasons = [r.reason for r in recompilations if r.function == function]
    why = f"'{function}' was compiled {_count(len(reasons), 'more time')} ({one_line(reasons[-1])})"
    return Advice(
        "recompilation",
        why,
        "keep image sizes, label capacity and modes as they are during a run, or set --model.compile false",
    )


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
