"""What the readings come to: the ratios that have a target, with the target beside each."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from ..ratios import paired_ratio
from .parts import Model

TARGETS: dict[str, tuple[str, float]] = {
    "ours / ultralytics, images/s": (">=", 2.0),
    "ours / yolov5, images/s": (">=", 3.0),
    "compiled / eager step, bf16, time": ("<=", 0.82),
    "bf16 / fp32 peak memory, compiled": ("<=", 0.6),
    "end to end / resident ceiling, images/s": (">=", 0.95),
    "device idle fraction": ("<", 0.02),
}
"""What each ratio should be; it was set for YOLOv5s at 640 px, batch 64, on an H200."""

Parts = Mapping[str, Mapping[str, Any]]


def summarise(parts: Parts, models: tuple[Model, ...], is_gpu: bool) -> dict[str, Any]:
    """For each model, every ratio whose readings are there.

    Args:
        parts: what the store holds.
        models: in the order to be told in.
        is_gpu: whether targets apply; ``met`` is null where not.
    """
    return {model.name: _of_model(parts, model.letter, is_gpu) for model in models}


def _of_model(parts: Parts, letter: str, is_gpu: bool) -> dict[str, Any]:
    ours = _rounds(parts, letter, "ours")
    cached = _rounds(parts, letter, "ours_cached")
    ceiling = _value(parts, f"step/{letter}/bf16-compiled", "ceiling", "images_per_second")
    found: dict[str, float | None] = {}
    for peer in ("ultralytics", "yolov5"):
        theirs = _rounds(parts, letter, peer)
        found[f"ours / {peer}, images/s"] = _paired(ours, theirs)
        found[f"ours with data.cache auto / {peer}, images/s"] = _paired(cached, theirs)
    found["compiled / eager step, bf16, time"] = _quotient(
        _value(parts, f"step/{letter}/bf16-compiled", "ms"), _value(parts, f"step/{letter}/bf16-eager", "ms")
    )
    found["compiled / eager step, fp32, time"] = _quotient(
        _value(parts, f"step/{letter}/fp32-compiled", "ms"), _value(parts, f"step/{letter}/fp32-eager", "ms")
    )
    for form in ("compiled", "eager"):
        found[f"bf16 / fp32 peak memory, {form}"] = _quotient(
            _value(parts, f"step/{letter}/bf16-{form}", "peak_memory_mb"),
            _value(parts, f"step/{letter}/fp32-{form}", "peak_memory_mb"),
        )
    found["end to end / resident ceiling, images/s"] = _quotient(_median(ours), ceiling)
    found["end to end with data.cache auto / resident ceiling, images/s"] = _quotient(
        _median(cached), ceiling
    )
    for name in ("device_idle_fraction", "data_wait_fraction"):
        values = _rounds(parts, letter, "ours", f"perf/{name}")
        found[name.replace("_", " ")] = _median(values)
    return {name: _judged(name, value, is_gpu) for name, value in found.items() if value is not None}


def _judged(name: str, value: float, is_gpu: bool) -> dict[str, Any]:
    """A ratio with its target, and whether it is met."""
    if name not in TARGETS:
        return {"value": value}
    relation, target = TARGETS[name]
    met = {">=": value >= target, "<=": value <= target, "<": value < target}[relation]
    return {"value": value, "target": f"{relation} {target:g}", "met": met if is_gpu else None}


def _value(parts: Parts, name: str, *keys: str) -> float | None:
    """A number of a reading, or None where the part has not run, has failed, or has none."""
    found: Any = parts.get(name, {}).get("reading")
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, (int, float)) else None


def _rounds(parts: Parts, letter: str, who: str, key: str = "images_per_second") -> dict[int, float]:
    """A number of each round in which there is one."""
    prefix = f"train/{letter}/{who}/"
    numbers = (int(name.removeprefix(prefix)) for name in parts if name.startswith(prefix))
    found = {number: _value(parts, f"{prefix}{number}", key) for number in numbers}
    return {number: value for number, value in sorted(found.items()) if value is not None}


def _paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> float | None:
    """Median over the rounds that both have of the quotient in that round."""
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        return None
    return paired_ratio([ours[n] for n in both], [theirs[n] for n in both], higher_is_better=True)["median"]


def _median(values: Mapping[int, float]) -> float | None:
    return statistics.median(values.values()) if values else None


def _quotient(value: float | None, other: float | None) -> float | None:
    return value / other if value is not None and other else None


def as_lines(summary: Mapping[str, Any]) -> list[str]:
    """The summary as text."""
    words = {True: "met", False: "MISSED", None: "not judged"}
    lines = []
    for model, ratios in summary.items():
        lines.append(model)
        for name, entry in ratios.items():
            target = f"   target {entry['target']}: {words[entry['met']]}" if "target" in entry else ""
            lines.append(f"  {name:60s} {entry['value']:8.4g}{target}")
    return lines
