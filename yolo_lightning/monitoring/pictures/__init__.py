"""Pictures of images with their boxes, and of the labels of a data set; drawn on the CPU, in RGB."""

from .draw_boxes import Pixels, class_colour, draw_boxes, legible
from .grid import encode
from .labels import draw_label_statistics, label_statistics
from .mistakes import WorstErrors, find_errors
from .panels import draw_augmented, draw_predictions, draw_worst
from .views import SCORE_THRESHOLD, EvaluatedImage, View, cut_view, take_apart

__all__ = [
    "SCORE_THRESHOLD",
    "EvaluatedImage",
    "Pixels",
    "View",
    "WorstErrors",
    "class_colour",
    "cut_view",
    "draw_augmented",
    "draw_boxes",
    "draw_label_statistics",
    "draw_predictions",
    "draw_worst",
    "encode",
    "find_errors",
    "label_statistics",
    "legible",
    "take_apart",
]
