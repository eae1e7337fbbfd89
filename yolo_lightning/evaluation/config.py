"""Options of evaluations, with the defaults of classic YOLOv5's val.py."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError


@dataclass(frozen=True)
class EvaluationConfig:
    """Which detections of a validation or test are evaluated.

    Raises:
        InputError: a value is out of range.
    """

    score_threshold: float = 0.001
    """Score above which a box is a detection, 0..1; a higher one is faster and lowers mAP."""
    iou_threshold: float = 0.6
    """IoU above which only the best of two boxes of one class is kept, 0..1."""
    max_detections: int = 300
    """Detections of an image, best first; mAP counts the best 100 of a class."""

    def __post_init__(self) -> None:
        for name in ("score_threshold", "iou_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"model.evaluation.{name} is {getattr(self, name)}; give a number from 0 to 1"
                )
        if self.max_detections < 1:
            raise InputError(f"model.evaluation.max_detections is {self.max_detections}; give 1 or more")
