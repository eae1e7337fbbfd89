"""Faults of a GPU as sentences, each reported once for as long as it lasts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from .readings import COSTLY_REASONS, GpuFacts, GpuReading
from .summary import Aggregate
from .throttling import Throttling

_NEAR_LIMIT_C = 5.0
"""A temperature is reported from this many degrees below its limit."""
_DROP = 0.05
"""Missing share of the clock, 0..1, from which throttling is reported."""
_THROTTLED_S = 10.0
"""Throttled time before the report, so that its figures mean something."""
_GAP_S = 30.0
"""A fault has ended when it was absent for this long."""
_COOLING = "cool it better, or lower its power limit with 'nvidia-smi -pl'"
_REMEDIES = {
    "SwPowerCap": "raise the limit with 'nvidia-smi -pl', where the board allows it",
    "SwThermalSlowdown": _COOLING,
    "HwThermalSlowdown": _COOLING,
    "HwPowerBrakeSlowdown": "the machine's power supply is at its limit",
    "HwSlowdown": "see to its cooling, its power cables and the power supply",
}
_CAUSES = {
    "heat": {"SwThermalSlowdown", "HwThermalSlowdown"},
    "hardware": {"HwPowerBrakeSlowdown", "HwSlowdown"},
    "power": {"SwPowerCap"},
}
"""Causes that are reported separately -> their reasons. If there are several, the first one counts."""
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

Scope = Literal["gpu", "host", "run"]
"""Scope of a message: one GPU, all GPUs of a host, or all GPUs of the run."""


class Message(NamedTuple):
    """One line for the user."""

    scope: Scope
    line: str


@dataclass
class _Fault:
    """One kind of fault, over time."""

    is_reported: bool = False
    seen_s: float = -math.inf
    reported_s: float = -math.inf
    sums: Aggregate = field(default_factory=Aggregate)
    """Intervals with the fault, since it began."""
    seconds: float = 0.0
    """Time since it began, with and without the fault."""

    def see(self, now_s: float) -> None:
        """Note that the fault is there."""
        if now_s - self.seen_s >= _GAP_S:
            self.is_reported, self.sums, self.seconds = False, Aggregate(), 0.0
        self.seen_s = now_s

    def is_due(self, now_s: float, repeat_s: float) -> bool:
        """Decide whether to report the fault now; if so, it counts as reported."""
        if self.is_reported or now_s - self.reported_s < repeat_s:
            return False
        self.is_reported, self.reported_s = True, now_s
        return True


class FaultWatch:
    """Finds the faults of one GPU in its readings.

    A fault is reported once. It is reported again only if it has been absent for 30 s and has come back,
    and ``repeat_s`` have passed since the last report.

    Args:
        facts: of the GPU.
        where: text after the GPU's title, such as rank and host; may be empty.
        repeat_s: least time between two reports of the same fault.
    """

    def __init__(self, facts: GpuFacts, where: str = "", repeat_s: float = 1800.0) -> None:
        self._facts = facts
        self._title = f"{facts.title}{where}"
        self._repeat_s = repeat_s
        self._faults: dict[str, _Fault] = {}
        self._errors_before = 0
        """Uncorrected ECC errors before the run began."""
        self._errors_reported: int | None = None
        """Uncorrected ECC errors at the last report; None before the first reading."""
        self._errors_reported_s = -math.inf
        self._left_out: set[str] = set()

    def see(self, now_s: float, reading: GpuReading, throttling: Throttling, seconds: float) -> list[Message]:
        """Messages that a reading causes.

        Args:
            now_s: time of the reading, by any clock.
            reading: of the GPU.
            throttling: in the interval that the reading ends.
            seconds: length of that interval.
        """
        return [
            *self._throttled(now_s, reading, throttling, seconds),
            *self._hot(now_s, reading),
            *self._memory_errors(now_s, reading),
            *self._bad_rows(now_s, reading),
            *self._xids(now_s, reading),
        ]

    def see_left_out(self, unsupported: Sequence[str], forbidden: Sequence[str]) -> list[Message]:
        """Messages about readings that are not available, each once."""
        messages = []
        texts: tuple[tuple[Scope, Sequence[str], str], ...] = (
            ("host", forbidden, "permission denied for {}: not watched"),
            ("run", unsupported, "cannot read {}: not watched"),
        )
        for scope, names, text in texts:
            new = [name for name in names if name not in self._left_out]
            self._left_out.update(new)
            if new:
                messages.append(self._message(text.format(", ".join(new)), scope))
        return messages

    def lost(self, reason: str, xids: Sequence[int]) -> Message:
        """Message about a GPU that is lost."""
        after = f" after {' and '.join(map(_xid_text, xids))}" if xids else ""
        return self._message(
            f"lost{after} (NVML: {reason}) and not watched any more; training continues if it can; "
            "see 'dmesg', then reset the GPU or restart the machine"
        )

    def _message(self, text: str, scope: Scope = "gpu") -> Message:
        return Message(scope, f"{self._title}: {text}")

    def _fault(self, name: str) -> _Fault:
        return self._faults.setdefault(name, _Fault())

    def _is_due(self, name: str, now_s: float) -> bool:
        """Note that a fault is there; returns whether to report it now."""
        fault = self._fault(name)
        fault.see(now_s)
        return fault.is_due(now_s, self._repeat_s)

    def _throttled(
        self, now_s: float, reading: GpuReading, throttling: Throttling, seconds: float
    ) -> Iterator[Message]:
        matters = throttling.drop is None or throttling.drop >= _DROP
        causes = [cause for cause, reasons in _CAUSES.items() if reasons & throttling.reasons and matters]
        for cause in _CAUSES:  # each by itself: a GPU at its power limit may overheat as well
            fault = self._fault(cause)
            is_there = causes[:1] == [cause]
            if is_there:
                fault.see(now_s)
            fault.seconds += seconds
            if not is_there or fault.is_reported:
                continue
            fault.sums.add(reading, throttling, seconds)
            if fault.sums.throttled_s >= _THROTTLED_S and fault.is_due(now_s, self._repeat_s):
                yield self._message(self._throttling_text(fault, throttling.reference_mhz))

    def _throttling_text(self, fault: _Fault, reference_mhz: float | None) -> str:
        sums = fault.sums
        reason = max(COSTLY_REASONS, key=lambda name: sums.throttled_by_s.get(name, 0.0))
        why, limit_w = COSTLY_REASONS[reason], self._facts.power_limit_w
        if reason == "SwPowerCap" and limit_w:
            why += f" of {limit_w:.0f} W"
        clock = sums.values.get("sm_clock_mhz")
        clocks = loss = ""
        if clock is not None and reference_mhz is not None:
            clocks = f"{clock.mean:.0f} MHz instead of {reference_mhz:.0f} MHz "
            loss = f", which cost {'at most' if sums.lost_is_bound else 'about'} {sums.lost_s:.1f} s"
        times = f"in {sums.throttled_s:.0f} of the last {fault.seconds:.0f} s"
        return f"clocks are lowered by {why}: {clocks}{times}{loss}; {_REMEDIES[reason]}"

    def _hot(self, now_s: float, reading: GpuReading) -> Iterator[Message]:
        temperature, limit = reading.temperature_c, self._facts.limit_c
        if temperature is None:
            return
        if limit is None and reading.margin_c is not None:
            limit = temperature + reading.margin_c
        if limit is not None and temperature >= limit - _NEAR_LIMIT_C and self._is_due("hot", now_s):
            below = limit - temperature
            distance = f"{below:.0f} degrees below" if below > 0 else "not below"
            yield self._message(
                f"{temperature:.0f} °C hot, {distance} the {limit:.0f} °C at which its clocks are lowered; "
                f"{_COOLING}"
            )

    def _memory_errors(self, now_s: float, reading: GpuReading) -> Iterator[Message]:
        """Count ECC errors; unlike other faults, new ones are reported although old ones remain."""
        errors = reading.ecc_uncorrected
        if errors is None:
            return
        if self._errors_reported is None:
            self._errors_before = self._errors_reported = errors
            if errors:
                yield self._message(f"uncorrected ECC errors from before this run: {errors}; {_CHECK}")
        elif errors > self._errors_reported and now_s - self._errors_reported_s >= self._repeat_s:
            self._errors_reported, self._errors_reported_s = errors, now_s
            new = f"uncorrected ECC errors in this run: {errors - self._errors_before}"
            yield self._message(f"{new}; results may be wrong; {_CHECK}")

    def _bad_rows(self, now_s: float, reading: GpuReading) -> Iterator[Message]:
        if reading.remapping_failed and self._is_due("remapping failed", now_s):
            yield self._message("has bad memory that it could not replace; have it checked")
        if reading.remapping_pending and self._is_due("remapping pending", now_s):
            remedy = "'nvidia-smi --gpu-reset' after the run"
            yield self._message(f"has bad memory that is replaced when the GPU is reset: {remedy}")

    def _xids(self, now_s: float, reading: GpuReading) -> Iterator[Message]:
        for xid in sorted(set(reading.xids)):
            if self._is_due(f"Xid {xid}", now_s):
                yield self._message(f"the driver reports {_xid_text(xid)}; see 'dmesg | grep Xid'")


def _xid_text(xid: int) -> str:
    return f"Xid {xid}" + (f" ({_XIDS[xid]})" if xid in _XIDS else "")
