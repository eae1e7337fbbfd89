"""Readings of a GPU to sentences: each fault is told once for as long as it lasts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from .aggregates import Aggregate
from .readings import COSTLY_REASONS, GpuFacts, Reading
from .throttling import Throttling

NEAR_LIMIT_C = 5.0
"""Degrees below its limit from which a temperature is told."""
_DROP = 0.05
"""Part of the clock, 0..1, that is missing before a word is worth it."""
_THROTTLED_S = 10.0
"""Seconds with lowered clocks before they are told, so that the figures mean something."""
_GAP_S = 30.0
"""Seconds without a fault after which it has ended."""

Kind = Literal[
    "throttling", "temperature", "ecc", "memory", "xid", "lost", "permission", "unsupported", "nvml"
]

_REMEDIES = {
    "SwPowerCap": "raise the limit with 'nvidia-smi -pl', where the board allows it",
    "SwThermalSlowdown": "cool it better, or lower its power limit with 'nvidia-smi -pl'",
    "HwThermalSlowdown": "cool it better, or lower its power limit with 'nvidia-smi -pl'",
    "HwPowerBrakeSlowdown": "the machine's power supply is at its limit",
    "HwSlowdown": "see to its cooling, its power cables and the power supply",
}
_SORTS = (
    ("heat", {"SwThermalSlowdown", "HwThermalSlowdown"}),
    ("hardware", {"HwPowerBrakeSlowdown", "HwSlowdown"}),
    ("power", {"SwPowerCap"}),
)
"""Reasons that are told apart; where there are several at once the first counts."""
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
"""From NVIDIA's list of Xid errors, those that most often end a training run."""


class Message(NamedTuple):
    """One line for the user."""

    kind: Kind
    line: str


class Occurrence:
    """Of one fault: from when it is first there until it has not been there for a while.

    Attributes:
        is_told: whether there was a line about it.

    Args:
        repeat_s: seconds between two lines at least.
        gap_s: seconds without it after which it has ended.
    """

    def __init__(self, repeat_s: float, gap_s: float = _GAP_S) -> None:
        self.is_told = False
        self._repeat_s = repeat_s
        self._gap_s = gap_s
        self._is_on = False
        self._seen_s = self._told_s = -math.inf

    def see(self, now_s: float, is_there: bool) -> bool:
        """Take in whether the fault is there; returns whether it has just begun."""
        begins = is_there and not self._is_on
        if is_there:
            self._is_on, self._seen_s = True, now_s
        elif now_s - self._seen_s >= self._gap_s:
            self._is_on = False
        if begins:
            self.is_told = False
        return begins

    def is_due(self, now_s: float) -> bool:
        """Whether a fault that is there is to be told now; when yes, it counts as told."""
        if self.is_told or now_s - self._told_s < self._repeat_s:
            return False
        self.is_told, self._told_s = True, now_s
        return True


@dataclass
class _Episode:
    """An occurrence of lowered clocks."""

    sums: Aggregate = field(default_factory=Aggregate)
    """Of the intervals with lowered clocks alone."""
    seconds: float = 0.0
    """Of all intervals since it began."""


class FaultWatch:
    """Finds the faults of one GPU in its readings.

    A fault is told once when it is found. It is told again only when it has ended, for 30 s or more, and
    has come back, and not within ``repeat_s`` after its last line.

    Args:
        facts: of the GPU.
        where: what is put behind its title, such as rank and host; may be empty.
        repeat_s: seconds between two lines about the same.
    """

    def __init__(self, facts: GpuFacts, where: str = "", repeat_s: float = 1800.0) -> None:
        self._facts = facts
        self._title = f"{facts.title}{where}"
        self._repeat_s = repeat_s
        self._occurrences: dict[str, Occurrence] = {}
        self._episodes: dict[str, _Episode] = {}
        self._errors_before = 0
        """Uncorrected ones that there were when the run began."""
        self._told_errors: int | None = None
        """How many there were when they were told last; None before the first look."""
        self._errors_told_s = -math.inf
        self._xids: set[int] = set()
        """Numbers that were reported so far."""
        self._left_out: set[str] = set()

    def see(self, now_s: float, reading: Reading, throttling: Throttling, seconds: float) -> list[Message]:
        """The lines that a reading gives rise to.

        Args:
            now_s: time of the reading, by any clock.
            reading: of the GPU.
            throttling: what it means.
            seconds: since the reading before.
        """
        return [
            *self._throttled(now_s, reading, throttling, seconds),
            *self._hot(now_s, reading),
            *self._memory_errors(now_s, reading),
            *self._bad_rows(now_s, reading),
            *self._reported(now_s, reading),
        ]

    def see_left_out(self, unsupported: Sequence[str], forbidden: Sequence[str]) -> list[Message]:
        """The lines about readings that are not to be had, each once."""
        messages = []
        texts: tuple[tuple[Kind, Sequence[str], str], ...] = (
            ("permission", forbidden, "permission denied for {}: not watched"),
            ("unsupported", unsupported, "cannot read {}: not watched"),
        )
        for kind, names, text in texts:
            new = [name for name in names if name not in self._left_out]
            self._left_out.update(new)
            if new:
                messages.append(self._tell(kind, text.format(", ".join(new))))
        return messages

    def lost(self, reason: str, xids: Sequence[int]) -> Message:
        """The line about a GPU that is gone."""
        after = f" after {' and '.join(map(_xid_text, xids))}" if xids else ""
        return self._tell(
            "lost",
            f"lost{after} (NVML: {reason}) and not watched any more; training goes on if it can; "
            "see 'dmesg', then reset the GPU or restart the machine",
        )

    def _tell(self, kind: Kind, text: str) -> Message:
        return Message(kind, f"{self._title}: {text}")

    def _occurrence(self, name: str) -> Occurrence:
        return self._occurrences.setdefault(name, Occurrence(self._repeat_s))

    def _throttled(
        self, now_s: float, reading: Reading, throttling: Throttling, seconds: float
    ) -> Iterator[Message]:
        is_there = bool(throttling.reasons) and (throttling.drop is None or throttling.drop >= _DROP)
        kind = next((kind for kind, names in _SORTS if names & throttling.reasons), None)
        for sort, _ in _SORTS:  # each by itself: a GPU at its power limit may get too hot besides
            episode = self._episodes.setdefault(sort, _Episode())
            occurrence = self._occurrence(sort)
            if occurrence.see(now_s, is_there and sort == kind):
                episode = self._episodes[sort] = _Episode()
            episode.seconds += seconds
            if not (is_there and sort == kind) or occurrence.is_told:
                continue
            episode.sums.add(reading, throttling, seconds)
            if episode.sums.throttled_s >= _THROTTLED_S and occurrence.is_due(now_s):
                yield self._tell("throttling", self._throttling_text(episode, throttling.reference_mhz))

    def _throttling_text(self, episode: _Episode, reference_mhz: float | None) -> str:
        sums = episode.sums
        reason = max(COSTLY_REASONS, key=lambda name: sums.throttled_by_s.get(name, 0.0))
        why, limit = COSTLY_REASONS[reason], self._facts.power_limit_w
        if reason == "SwPowerCap" and limit:
            why += f" of {limit:.0f} W"
        clock = sums.values.get("sm_clock_mhz")
        clocks = loss = ""
        if clock is not None and reference_mhz is not None:
            clocks = f"{clock.mean:.0f} MHz instead of {reference_mhz:.0f} MHz "
            loss = f", which cost {'at most' if sums.lost_is_bound else 'about'} {sums.lost_s:.1f} s"
        times = f"in {sums.throttled_s:.0f} of the last {episode.seconds:.0f} s"
        return f"clocks are lowered by {why}: {clocks}{times}{loss}; {_REMEDIES[reason]}"

    def _hot(self, now_s: float, reading: Reading) -> Iterator[Message]:
        temperature, limit = reading.temperature_c, self._facts.limit_c
        if limit is None and None not in (temperature, reading.margin_c):
            limit = temperature + reading.margin_c  # type: ignore[operator]
        if temperature is None or limit is None:
            return
        occurrence = self._occurrence("temperature")
        is_there = temperature >= limit - NEAR_LIMIT_C
        occurrence.see(now_s, is_there)
        if is_there and occurrence.is_due(now_s):
            below = limit - temperature
            distance = f"{below:.0f} degrees below" if below > 0 else "not below"
            yield self._tell(
                "temperature",
                f"{temperature:.0f} °C hot, {distance} the {limit:.0f} °C at which its clocks are lowered; "
                f"{_REMEDIES['SwThermalSlowdown']}",
            )

    def _memory_errors(self, now_s: float, reading: Reading) -> Iterator[Message]:
        errors = reading.ecc_uncorrected
        if errors is None:
            return
        told_before, self._told_errors = self._told_errors, errors
        if told_before is None:
            self._errors_before = errors
            if errors:
                yield self._tell("ecc", f"uncorrected ECC errors from before this run: {errors}; {_CHECK}")
        elif errors < told_before:  # the driver was loaded again, and counts anew
            self._errors_before = 0
        elif errors > told_before and now_s - self._errors_told_s < self._repeat_s:
            self._told_errors = told_before  # until it is time
        elif errors > told_before:
            self._errors_told_s = now_s
            new = f"uncorrected ECC errors in this run: {errors - self._errors_before}"
            yield self._tell("ecc", f"{new}; results may be wrong; {_CHECK}")

    def _bad_rows(self, now_s: float, reading: Reading) -> Iterator[Message]:
        pending = "that is replaced when the GPU is reset: 'nvidia-smi --gpu-reset' after the run"
        states = (
            ("failed", reading.remapping_failed, "that it could not replace; have it checked"),
            ("pending", reading.remapping_pending, pending),
        )
        for name, is_there, text in states:
            if is_there is None:
                continue
            occurrence = self._occurrence(f"remapping {name}")
            occurrence.see(now_s, is_there)
            if is_there and occurrence.is_due(now_s):
                yield self._tell("memory", f"has bad memory {text}")

    def _reported(self, now_s: float, reading: Reading) -> Iterator[Message]:
        self._xids.update(reading.xids)
        for xid in sorted(self._xids):
            occurrence = self._occurrence(f"Xid {xid}")
            occurrence.see(now_s, xid in reading.xids)
            if xid in reading.xids and occurrence.is_due(now_s):
                yield self._tell("xid", f"the driver reports {_xid_text(xid)}; see 'dmesg | grep Xid'")


def _xid_text(xid: int) -> str:
    return f"Xid {xid}" + (f" ({_XIDS[xid]})" if xid in _XIDS else "")
