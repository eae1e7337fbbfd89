"""The outcome of a run: its description, the scores of its classes, its length."""

from __future__ import annotations

import math

from .read import Row, Run

_OF_CLASS = "val/map_class/"
_MOST_CLASSES, _WEAKEST = 20, 10
"""Most classes in an open table; of more, the weakest."""


ClassScores = tuple[str, list[float | None]]
"""Name of a class; its average precision at IoU 0.50 to 0.95, then, if known, that at IoU 0.50, and
precision, recall and F1 at the best confidence."""


def best_confidence(run: Run) -> float | None:
    """The confidence at which precision, recall and F1 of the classes are given; None if unknown."""
    found = run.evaluation
    return None if found is None or math.isnan(found.best_confidence) else found.best_confidence


def class_scores(run: Run) -> list[ClassScores]:
    """Scores of each class at the best epoch, in the order of the classes."""
    precisions = class_average_precisions(run.best)
    table: dict[str, list[float | None]] = {name: [value] for name, value in precisions.items()}
    found, confidence = run.evaluation, best_confidence(run)
    if found is not None and confidence is not None:
        at = abs(found.confidence - confidence).argmin()
        for label, name in enumerate(found.class_names):
            figures = [float(found.curves[key][label, at]) for key in ("precision", "recall", "f1")]
            table[name] = [precisions.get(name), float(found.ap_50[label]), *figures]
    return list(table.items())


def weakest(classes: list[ClassScores]) -> list[ClassScores]:
    """The classes with the lowest average precision; none if all classes have room on the page."""
    if len(classes) <= _MOST_CLASSES:
        return []
    known = [(name, scores) for name, scores in classes if scores[0] is not None and scores[0] >= 0]
    return sorted(known, key=lambda row: row[1][0] or 0.0)[:_WEAKEST]


def class_average_precisions(row: Row) -> dict[str, float]:
    """Average precision at IoU 0.50 to 0.95, by the name of the class."""
    return {name.removeprefix(_OF_CLASS): row[name] for name in row if name.startswith(_OF_CLASS)}


def described(run: Run) -> str:
    """Network, data, hardware and start of a run, in a line."""
    size, batch = run.option("data.image_size"), run.option("data.batch_size")
    parts = [
        run.option("model.architecture"),
        run.option("data.root"),
        f"{size} px" if size else None,
        f"batch {batch}" if batch else None,
        run.environment.get("precision"),
        _hardware(run),
        str(run.environment.get("started", "")).replace("T", " ")[:16],
    ]
    return "  ·  ".join(str(part) for part in parts if part)


def _hardware(run: Run) -> str | None:
    """The hardware in use: ``gpus`` lists all of the machine, and each process has one of them."""
    gpus, processes, cores = (run.environment.get(key) for key in ("gpus", "world_size", "cpu_count"))
    if isinstance(gpus, list) and gpus and run.option("trainer.accelerator") != "cpu":
        return f"{processes} × {gpus[0]}" if isinstance(processes, int) and processes > 1 else str(gpus[0])
    return f"{cores} CPU cores" if cores else None


def wall_seconds(run: Run) -> float | None:
    """Duration of a run from its time budget, else from its last row."""
    value = run.time_budget.get("wall_seconds", run.last.get("wall_seconds"))
    return float(value) if isinstance(value, (int, float)) else None


def epochs_text(run: Run) -> str:
    """Trained and planned epochs, such as ``30 of 30``."""
    trained, planned = int(run.last["epoch"]) + 1, run.option("trainer.max_epochs")
    return f"{trained} of {planned}" if isinstance(planned, int) and planned > 0 else str(trained)
