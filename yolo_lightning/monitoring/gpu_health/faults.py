"""Faults of a GPU as sentences, each reported once for as long as it lasts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .nvml import COOLING, THROTTLE_REASONS
from .summary import Aggregate, Interval

_NEAR_LIMIT_C = 5.0
"""A temperature is reported from this many degrees below its limit."""
_DROP = 0.05
"""Missing share of the clock, 0..1, from which throttling is reported."""
_THROTTLED_S = 10.0
"""Throttled time before the report, so that its figures mean something."""
_GAP_S = 30.0
"""A fault has ended when it was absent for this long."""
_REPEAT_S = 1800.0
"""Least time between two reports of the same fault."""
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
class _Fault:
    """One kind of fault, over time."""

    began_s: float = 0.0
    seen_s: float = -math.inf
    reported_s: float = -math.inf
    sums: Aggregate = field(default_factory=Aggregate)
    """Intervals with the fault, since it began."""

    def see(self, now_s: float, seconds: float = 0.0) -> None:
        """Note that the fault is there, and was in the ``seconds`` before."""
        if now_s - self.seen_s >= _GAP_S:
            self.began_s, self.sums = now_s - seconds, Aggregate()
        self.seen_s = now_s

    def is_due(self, now_s: float) -> bool:
        """Decide whether to report the fault now; if so, it counts as reported."""
        is_due = self.reported_s < self.began_s and now_s - self.reported_s >= _REPEAT_S
        if is_due:
            self.reported_s = now_s
        return is_due


class FaultWatch:
    """Finds the faults of one GPU in its readings.

    A fault is reported once. It is reported again only if it has been absent for 30 s and has come back,
    and half an hour has passed since the last report. All methods return lines for the user.

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
        self._faults: defaultdict[str, _Fault] = defaultdict(_Fault)
        self._errors_before: float | None = None
        """Uncorrected ECC errors before the run began; None before the first reading."""
        self._errors_reported = 0.0
        self._errors_reported_s = -math.inf
        self._left_out: set[str] = set()

    def see(self, now_s: float, interval: Interval) -> list[str]:
        """Report the faults of an interval that ends at ``now_s``, in s by any clock."""
        texts = [
            *self._throttling(now_s, interval),
            *self._memory_errors(now_s, interval.values),
            *self._due(now_s, self._others(interval.values)),
        ]
        return [f"{self._title}: {text}" for text in texts]

    def see_xids(self, now_s: float, xids: Iterable[int]) -> list[str]:
        """Report critical errors of the driver."""
        texts = {f"Xid {xid}": f" ({_XIDS[xid]})" if xid in _XIDS else "" for xid in sorted(xids)}
        signs = (
            (xid, f"the driver reports {xid}{text}; see 'dmesg | grep Xid'") for xid, text in texts.items()
        )
        return [f"{self._title}: {text}" for text in self._due(now_s, signs)]

    def see_left_out(self, left_out: Mapping[str, str]) -> list[str]:
        """Report readings that are not available, each once.

        Args:
            left_out: name of a reading -> reason.
        """
        new = {name: reason for name, reason in left_out.items() if name not in self._left_out}
        self._left_out.update(new)
        return [
            f"{self._title}: {reason} {', '.join(n for n in new if new[n] == reason)}: not watched"
            for reason in sorted(set(new.values()))
        ]

    def lost(self, error: Exception) -> list[str]:
        """Report that the driver has lost the GPU."""
        return [
            f"{self._title}: lost (NVML: {error}) and not watched any more; training continues if it can; "
            "see 'dmesg', then reset the GPU or restart the machine"
        ]

    def _due(self, now_s: float, faults: Iterable[tuple[str, str]]) -> Iterator[str]:
        """Note that faults are there; yields the texts of those to report now."""
        for name, text in faults:
            self._faults[name].see(now_s)
            if self._faults[name].is_due(now_s):
                yield text

    def _throttling(self, now_s: float, interval: Interval) -> Iterator[str]:
        reason = next((name for name in THROTTLE_REASONS if name in interval.throttling), None)
        if reason is None or (interval.drop is not None and interval.drop < _DROP):
            return
        fault = self._faults[reason]
        fault.see(now_s, interval.seconds)
        fault.sums.add(interval)
        if fault.sums.seconds < _THROTTLED_S or not fault.is_due(now_s):
            return
        why, remedy = THROTTLE_REASONS[reason]
        if reason == "SwPowerCap" and self._power_limit_w:
            why += f" of {self._power_limit_w:.0f} W"
        clocks = loss = ""
        if "sm_clock_mhz" in fault.sums.values and interval.reference_mhz:
            mean_mhz = fault.sums.values["sm_clock_mhz"]["mean"]
            clocks = f"{mean_mhz:.0f} MHz instead of {interval.reference_mhz:.0f} MHz "
            about = "at most" if fault.sums.lost_is_upper_bound else "about"
            loss = f", which cost {about} {fault.sums.lost_seconds:.1f} s"
        times = f"in {fault.sums.seconds:.0f} of the last {now_s - fault.began_s:.0f} s"
        yield f"clocks are lowered by {why}: {clocks}{times}{loss}; {remedy}"

    def _memory_errors(self, now_s: float, values: Mapping[str, float]) -> Iterator[str]:
        """Count ECC errors; unlike other faults, new ones are reported although old ones remain."""
        errors = values.get("ecc_uncorrected")
        if errors is None:
            return
        if self._errors_before is None:
            self._errors_before = self._errors_reported = errors
            if errors:
                yield f"uncorrected ECC errors from before this run: {errors}; {_CHECK}"
        elif errors > self._errors_reported and now_s - self._errors_reported_s >= _REPEAT_S:
            self._errors_reported, self._errors_reported_s = errors, now_s
            new = errors - self._errors_before
            yield f"uncorrected ECC errors in this run: {new}; results may be wrong; {_CHECK}"

    def _others(self, values: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """Name and text of all other faults that are there."""
        below_c = self._limit_c - values.get("temperature_c", -math.inf)
        if below_c <= _NEAR_LIMIT_C:
            distance = f"{below_c:.0f} degrees below" if below_c > 0 else "not below"
            limit = f"the {self._limit_c:.0f} °C at which its clocks are lowered"
            yield "hot", f"{values['temperature_c']:.0f} °C hot, {distance} {limit}; {COOLING}"
        if values.get("remapping_failed"):
            yield "remapping failed", "has bad memory that it could not replace; have it checked"
        if values.get("remapping_pending"):
            remedy = "'nvidia-smi --gpu-reset' after the run"
            yield "remapping pending", f"has bad memory that is replaced when the GPU is reset: {remedy}"
