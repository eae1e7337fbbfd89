"""Bottleneck of a training, and the option that removes it: pure functions of measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from ..data.images.choose_cache import CACHE_MODES
from ..data.loading.ordered import Loading
from ..system.text import one_line

LOSS_THRESHOLD = 0.05
"""Part of the time, 0..1, below which a loss is not reported."""
SHORTEST_EPOCH_S = 1.0
"""Epochs shorter than this are not judged: starting them takes a good part of them."""
_SLOW_READING = 0.5
"""Part of the loader's time, 0..1, from which reading is the cause and not decoding."""
_DOCTOR = "'yolo-lightning doctor' measures it"

Cause = Literal["reading", "decoding", "copy", "host", "step", "launches", "recompilation", "loader"]


class Recompilation(NamedTuple):
    """A function that torch.compile had compiled before and compiled again."""

    function: str
    """Name of the function."""
    reason: str
    """Guard that failed, in the words of torch."""
    seconds: float
    """Duration, with that of the backward pass if it was compiled too."""


class Measurements(NamedTuple):
    """Parts of the training time, 0..1, and the facts that explain them."""

    idle_fraction: float
    """Time between two steps, in which the device has nothing to do."""
    loader_fraction: float
    """Time that the loader accounts for."""
    copy_fraction: float | None = None
    """Time that the copy to the device accounts for; None if it was not measured."""
    slow_step_fraction: float = 0.0
    """Time that the fastest form of the step would save; 0 if no other form was measured."""
    step_form: str = ""
    """Form of the present step."""
    seconds: float = math.nan
    """Duration of all steps and all waits."""
    recompilations: Sequence[Recompilation] = ()
    launch_bound_fraction: float = 0.0
    """Part of the steps that the device finished as fast as the host launched them; 0 on a CPU."""
    is_compiled: bool | None = None
    """True if the network is compiled; None if that is unknown."""
    step_ms: float = math.nan
    """Mean time of the host in a step, in ms."""
    loading: Loading | None = None
    """Facts of the loader, if it has any."""

    @property
    def recompiling_fraction(self) -> float:
        """Time that torch.compile took to compile functions again."""
        seconds = sum(each.seconds for each in self.recompilations)
        return min(1.0, seconds / self.seconds) if seconds else 0.0


class Advice(NamedTuple):
    """Why a part is slow, and what to do."""

    cause: Cause
    why: str
    """A clause that names the cause."""
    remedy: str
    """A clause that names the options to change, with their values."""


class Bottleneck(NamedTuple):
    """The largest loss of time."""

    loss: str
    """A clause with the part of the time that was lost."""
    advice: Advice


def find_bottleneck(measured: Measurements, period: str) -> Bottleneck | None:
    """Name the largest loss of time, its cause, and the option to change.

    Args:
        measured: parts of the time.
        period: name of the time that was measured, for the clause.

    Returns:
        None if less than 5 % of the time was lost.
    """

    def lost(part: float, to: str, advice: Advice) -> Bottleneck:
        return Bottleneck(f"{100 * part:.0f} % of {period} was lost {to}", advice)

    idle, recompiling = measured.idle_fraction, measured.recompiling_fraction
    slow_step, copying = measured.slow_step_fraction, measured.copy_fraction
    if recompiling >= LOSS_THRESHOLD and recompiling >= idle / 2:  # the device idles meanwhile
        return lost(recompiling, "compiling again", advise_recompilations(measured.recompilations))
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
    if measured.launch_bound_fraction > 0.5 and measured.is_compiled is False:
        part = f"{100 * measured.launch_bound_fraction:.0f} %"
        return Bottleneck(
            f"in {part} of the steps of {period} the device was done as soon as the host",
            Advice(
                "launches",
                f"launching a step takes the host {measured.step_ms:.1f} ms",
                _set(["--model.compile default"]),
            ),
        )
    return None


def explain_epoch(epoch: Measurements) -> tuple[Cause, str] | None:
    """Put the bottleneck of an epoch into one line for the user.

    Returns:
        The cause and the line; None if less than 5 % was lost or the epoch was too short to judge.
    """
    found = find_bottleneck(epoch, "this epoch") if epoch.seconds >= SHORTEST_EPOCH_S else None
    if found is None:
        return None
    cause, why, remedy = found.advice
    return cause, f"{found.loss}: {why}; {remedy}"


def advise_loading(loading: Loading | None) -> Advice:
    """Explain why a loader is slower than the step, and name the option to change.

    Args:
        loading: facts of the loader; None if it has none.
    """
    if loading is None:
        return Advice(
            "loader",
            "the loader is slower than the training step",
            "give it more worker processes, or let it keep decoded images",
        )
    if loading.cache == "device":
        reason = "the images are on the device already, so the time went to the host between two steps"
        return advise_host(loading, reason)
    if loading.workers == 0:
        remedies = [*_better_cache(loading), *_more_workers(loading)]
        is_reading = loading.cache != "none" or loading.read_fraction >= _SLOW_READING
        cause: Cause = "reading" if is_reading else "decoding"
        return Advice(cause, "the main process loads the images between two steps", _set(remedies))
    if loading.read_fraction >= _SLOW_READING:
        return _advise_reading(loading)
    return _advise_decoding(loading)


def _advise_reading(loading: Loading) -> Advice:
    what = "files" if loading.cache == "none" else f"the {loading.cache} cache"
    why = f"reading {what} takes {100 * loading.read_fraction:.0f} % of the loader's time: the disk is slow"
    # Decoded images are larger than their files: kept on the same disk, they are read no faster.
    in_memory = [option for option in _better_cache(loading) if "disk" not in option]
    if in_memory:
        return Advice("reading", why, _set(in_memory))
    overlap = f"--data.num_workers {min(2 * loading.workers, 2 * loading.cores)}"
    more = f", or set {overlap}, since reads wait side by side" if loading.workers < 2 * loading.cores else ""
    return Advice(
        "reading", why, f"copy the data set to a local disk and give it as --data.root{more}; {_DOCTOR}"
    )


def _advise_decoding(loading: Loading) -> Advice:
    busy = f"{_count(loading.workers, 'worker')} on {_count(loading.cores, 'core')} busy"
    remedies = [*_better_cache(loading), *_more_workers(loading)]
    if loading.cache != "none":
        why = f"copying images from the {loading.cache} cache keeps {busy}"
        remedy = _set(remedies) if remedies else f"give this process more cores; {_DOCTOR}"
        return Advice("reading", why, remedy)
    work = "reading and decoding keep" if math.isnan(loading.read_fraction) else "decoding keeps"
    if remedies:
        return Advice("decoding", f"{work} {busy}", _set(remedies))
    return Advice(
        "decoding",
        f"{work} {busy}, and no cache fits",
        "make the images smaller on disk, make room for --data.cache disk, or give this process more cores; "
        + _DOCTOR,
    )


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


def advise_host(loading: Loading | None, why: str) -> Advice:
    """Name what to look for if neither the loader nor the copy is slow."""
    cores = "the cores" if loading is None else f"the {_count(loading.cores, 'core')}"
    return Advice(
        "host",
        why,
        "look for callbacks that do much after each batch, and for other programs on "
        f"{cores} of this process",
    )


def advise_copying(loading: Loading | None) -> Advice:
    """Name the option to change if the host has its batches in time and the device does not."""
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
