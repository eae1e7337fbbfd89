"""Faults of a GPU as sentences, each reported once for as long as it lasts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .nvml import COOLING, THROTTLE_REASONS, GpuReading
from .summary import Aggregate, Interval

_NEAR_LIMIT_C = 5.0
"""A temperature is reported from this many degrees below its limit."""
_DROP = 0.05
"""Missing share of the clock, 0..1, from which throttling is reported."""
_THROTTLED_S = 10.0
"""Throttled time before the report, so that its figures mean something."""
_GAP_S = 30.0
"""Throttling has ended when it was absent for this long."""
_CHECK = "see 'nvidia-smi -q -d ECC', and have the GPU checked"
_XIDS = {
    13: "graphics engine exception",
    31: "page fault in its memory",
    48: "double bit ECC error",
    63: "bad memory is put out of use",
    64: "bad memory could not be put out of use",
    74: "NVLink error",
    79: "the GPU has fallen off the bus",
    94: "contained memory error",
    95: "uncontained memory error",
    119: "the GPU's own processor does not answer",
}
"""Xid errors that most often end a training run, from NVIDIA's list."""


@dataclass
class _Episode:
    """Throttling for one reason, with short breaks."""

    began_s: float
    seen_s: float
    sums: Aggregate = field(default_factory=Aggregate)
    """Throttled intervals."""


class FaultWatch:
    """Finds the faults of one GPU in its readings. Methods return lines; each fault is reported once.

    Args:
        facts: of the GPU, see :class:`NvmlGpu`.
        where: text after the GPU's title, such as rank and host; may be empty.
    """

    def __init__(self, facts: Mapping[str, Any], where: str = "") -> None:
        number = f" {facts['index']}" if "index" in facts else ""
        self._title = f"GPU{number} ({facts.get('name', 'NVIDIA')}){where}"
        self._power_limit_w: float | None = facts.get("power_limit_w")
        limits_c = [facts[name] for name in ("slowdown_c", "max_operating_c") if facts.get(name)]
        self._limit_c: float = min(limits_c, default=math.inf)
        self._reported: set[str] = set()
        self._episodes: dict[str, _Episode] = {}
        self._errors_before: int | None = None
        """Uncorrected ECC errors before the run began; None before the first reading."""

    def see(self, now_s: float, interval: Interval) -> list[str]:
        """Report the faults of an interval that ends at ``now_s``, in s by any clock."""
        return self._new([*self._throttling(now_s, interval), *self._others(interval.reading)])

    def see_xids(self, xids: Iterable[int]) -> list[str]:
        """Report critical errors of the driver."""
        texts = {f"Xid {xid}": _XIDS.get(xid, "see NVIDIA's list of Xid errors") for xid in sorted(xids)}
        remedy = "see 'dmesg | grep Xid'"
        return self._new((xid, f"the driver reports {xid} ({text}); {remedy}") for xid, text in texts.items())

    def see_left_out(self, left_out: Mapping[str, str]) -> dict[str, str]:
        """Report readings that are not available, name -> reason; return reason -> line."""
        new: defaultdict[str, list[str]] = defaultdict(list)
        for name, why in left_out.items():
            if name not in self._reported:
                new[why].append(name)
        self._reported.update(left_out)
        return {why: f"{self._title}: {why} {', '.join(names)}: not watched" for why, names in new.items()}

    def lost(self, error: Exception) -> list[str]:
        """Report that the driver has lost the GPU."""
        remedy = "see 'dmesg', then reset the GPU or restart the machine"
        text = f"lost (NVML: {error}) and not watched any more; training continues if it can; {remedy}"
        return self._new([("lost", text)])

    def _new(self, faults: Iterable[tuple[str, str]]) -> list[str]:
        """Lines for faults, by name, that were not reported yet."""
        new = {name: text for name, text in faults if name not in self._reported}
        self._reported.update(new)
        return [f"{self._title}: {text}" for text in new.values()]

    def _throttling(self, now_s: float, interval: Interval) -> Iterator[tuple[str, str]]:
        reason = next((name for name in THROTTLE_REASONS if name in interval.reading.throttling), None)
        if reason is None or (interval.drop is not None and interval.drop < _DROP):
            return
        episode = self._episodes.get(reason)
        if episode is None or now_s - episode.seen_s >= _GAP_S:
            episode = self._episodes[reason] = _Episode(now_s - interval.seconds, now_s)
        episode.seen_s = now_s
        sums = episode.sums
        sums.add(interval)
        if sums.seconds < _THROTTLED_S:
            return
        why, remedy = THROTTLE_REASONS[reason]
        if reason == "SwPowerCap" and self._power_limit_w:
            why += f" of {self._power_limit_w:.0f} W"
        clocks = loss = ""
        if interval.drop is not None:
            mean_mhz = sums.values["sm_clock_mhz"]["mean"]
            clocks = f"{mean_mhz:.0f} MHz instead of {interval.reference_mhz:.0f} MHz "
            about = "at most" if sums.lost_is_upper_bound else "about"
            loss = f", which cost {about} {sums.lost_seconds:.1f} s"
        times = f"in {sums.seconds:.0f} of the last {now_s - episode.began_s:.0f} s"
        yield reason, f"clocks are lowered by {why}: {clocks}{times}{loss}; {remedy}"

    def _others(self, reading: GpuReading) -> Iterator[tuple[str, str]]:
        """Name and text of all other faults that are there."""
        counters = reading.counters
        temperature_c = reading.values.get("temperature_c", -math.inf)
        below_c = self._limit_c - temperature_c
        if below_c <= _NEAR_LIMIT_C:
            distance = f"{below_c:.0f} degrees below" if below_c > 0 else "not below"
            limit = f"the {self._limit_c:.0f} °C at which its clocks are lowered"
            yield "hot", f"{temperature_c:.0f} °C hot, {distance} {limit}; {COOLING}"
        errors = counters.get("ecc_uncorrected")
        if errors is not None and self._errors_before is None:
            self._errors_before = errors
            if errors:
                yield "ECC before", f"uncorrected ECC errors from before this run: {errors}; {_CHECK}"
        elif errors and self._errors_before is not None and errors > self._errors_before:
            new = errors - self._errors_before
            yield "ECC", f"uncorrected ECC errors in this run: {new}; results may be wrong; {_CHECK}"
        if counters.get("remapping_failed"):
            yield "remapping failed", "has bad memory that it could not replace; have it checked"
        if counters.get("remapping_pending"):
            remedy = "'nvidia-smi --gpu-reset' after the run"
            yield "remapping pending", f"has bad memory that is replaced when the GPU is reset: {remedy}"
