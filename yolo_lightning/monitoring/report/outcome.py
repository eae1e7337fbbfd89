"""What came out of a run: the best epoch, and each class."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...runs.directory import images_per_second
from .html import NOTHING, Section, bar, both, details, duration, number, table, tile
from .markup import Child, Markup, tag
from .read import Row, Run

MAP, MAP_50 = "val/map", "val/map_50"
SPEED = "perf/images_per_second"
_OF_CLASS = "val/map_class/"
_MOST_CLASSES, _WEAKEST = 20, 10
"""More classes are folded away, and the weakest are shown."""
_SIZES = {"val/map_75": "mAP 75", "val/map_small": "small objects", "val/map_medium": "medium objects",
          "val/map_large": "large objects", "val/mar_100": "recall of 100"}  # fmt: skip


def header(run: Run) -> Markup:
    """Name of the run, what was trained on what, and when."""
    return both(
        tag("p", "yolo-lightning", class_="brand"),
        tag("h1", run.name),
        tag("p", described(run), class_="lead"),
    )


def described(run: Run) -> str:
    """What was trained, in a line."""
    size, batch = run.option("data.image_size"), run.option("data.batch_size")
    parts = [
        run.option("model.architecture"),
        run.option("data.root"),
        f"{size} px" if size else None,
        f"batch {batch}" if batch else None,
        run.environment.get("precision"),
        _hardware(run),
        str(run.environment.get("started", "")).replace("T", " ")[:16] or None,
    ]
    return "  ·  ".join(str(part) for part in parts if part)


def _hardware(run: Run) -> str | None:
    """What the run used; ``gpus`` are all that its machine has, and a process has one of them."""
    gpus, processes, cores = (run.environment.get(key) for key in ("gpus", "world_size", "cpu_count"))
    if isinstance(gpus, list) and gpus and run.option("trainer.accelerator") != "cpu":
        return f"{processes} × {gpus[0]}" if isinstance(processes, int) and processes > 1 else str(gpus[0])
    return f"{cores} CPU cores" if cores else None


def wall_seconds(run: Run) -> float | None:
    """How long the run took: by its time budget, or else as its last row says."""
    value = run.time_budget.get("wall_seconds", run.last.get("wall_seconds"))
    return float(value) if isinstance(value, (int, float)) else None


def epochs_text(run: Run) -> str:
    """Such as ``30 of 30``, counted from 1."""
    trained, planned = int(run.last["epoch"]) + 1, run.option("trainer.max_epochs")
    return f"{trained} of {planned}" if isinstance(planned, int) and planned > 0 else str(trained)


def section(run: Run) -> Section:
    """The best epoch in figures, its classes, and the last epoch beside it."""
    best = run.best
    tiles = [
        tile("mAP 50–95", number(best.get(MAP)), f"best epoch: {int(best['epoch']) + 1}", "good"),
        tile("mAP 50", number(best.get(MAP_50)), f"mAP 75: {number(best.get('val/map_75'))}", "good"),
        tile("Epochs", epochs_text(run), _runs_text(run)),
        tile("Images a second", number(images_per_second(run.rows), ".3g"), "median of the epochs", "train"),
        tile("Wall time", duration(wall_seconds(run))),
    ]
    return Section(
        "outcome",
        "What came out",
        both(tag("div", tiles, class_="tiles"), _classes(run), _best_and_last(run)),
    )


def _runs_text(run: Run) -> str | None:
    processes = run.time_budget.get("processes")
    return f"in {processes} parts" if isinstance(processes, int) and processes > 1 else None


def class_scores(row: Row) -> dict[str, float]:
    """Average precision 50-95 by name of class."""
    return {n.removeprefix(_OF_CLASS): v for n, v in row.items() if n.startswith(_OF_CLASS)}


def _classes(run: Run) -> Markup:
    """One row a class: its average precision, and precision and recall where F1 is best."""
    scores = class_scores(run.best)
    points = _at_best_f1(run)
    rows: list[Sequence[Child]] = []
    for name in dict.fromkeys([*scores, *points]):
        score, point = scores.get(name), points.get(name, {})
        cell = both(bar(score), number(score)) if score is not None else NOTHING
        figures = [number(point.get(key)) for key in ("ap_50", "precision", "recall", "f1")] if points else []
        rows.append([name, cell, *figures])
    if not rows:
        return Markup()
    head = ["class", "AP 50–95", *(["AP 50", "precision", "recall", "F1"] if points else [])]
    note = None
    if points:
        confidence = run.evaluation["best_f1"]["confidence"]
        note = f"Precision, recall and F1 at confidence {confidence:.2f}, where their mean F1 is best."
    below = tag("p", note, class_="note") if note else None
    whole = table(head, rows, kind="figures")
    if len(rows) <= _MOST_CLASSES:
        return both(tag("h3", "By class"), whole, below)
    weakest = sorted(rows, key=lambda row: scores.get(str(row[0]), math.inf))[:_WEAKEST]
    shown = table(head, weakest, kind="figures")
    return both(tag("h3", "Weakest classes"), shown, below, details(f"All {len(rows)} classes", whole))


def _at_best_f1(run: Run) -> dict[str, dict[str, float]]:
    """By class, the figures of evaluation.json at the confidence with the best F1; none without the file."""
    found = run.evaluation
    try:
        confidence = found["confidence"]
        chosen = found["best_f1"]["confidence"]
        at = min(range(len(confidence)), key=lambda i: abs(confidence[i] - chosen))
        return {
            str(name): {
                "ap_50": found["ap_50"][label],
                **{key: found[key][label][at] for key in ("precision", "recall", "f1")},
            }
            for label, name in enumerate(found["class_names"])
        }
    except (KeyError, IndexError, TypeError, ValueError):
        return {}


def _best_and_last(run: Run) -> Markup:
    best, last = run.best, run.last
    names = {MAP: "mAP 50–95", MAP_50: "mAP 50", **_SIZES}
    rows: list[Sequence[Child]] = [
        [label, number(best[name]), number(last.get(name))] for name, label in names.items() if name in best
    ]
    if not rows or best is last:
        return Markup()
    head = ["", f"best (epoch {int(best['epoch']) + 1})", f"last (epoch {int(last['epoch']) + 1})"]
    return both(tag("h3", "Best and last"), table(head, rows, kind="figures"))
