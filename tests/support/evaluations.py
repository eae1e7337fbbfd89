"""Evaluations for tests of plots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from yolo_lightning.monitoring.pictures.plots import Evaluation

X = np.linspace(0, 1, 101)


def evaluation_of(curves: np.ndarray, names: Sequence[str], **others: Any) -> Evaluation:
    """An evaluation whose curves are all these, (C, 101) at ``X``."""
    by_confidence = dict.fromkeys(("precision", "recall", "f1", "pr_precision"), curves)
    values: dict[str, Any] = {
        "epoch": 0,
        "confidence": X,
        "pr_recall": X,
        "ap_50": curves.mean(axis=1),
        "confusion": np.zeros((len(names) + 1,) * 2, np.int64),
        "best_confidence": np.nan,
        "best_f1": np.nan,
    }
    return Evaluation(**values | by_confidence | {"class_names": list(names)} | others)
