"""Pictures and plots of a run, drawn on the CPU, in RGB."""

from .draw_boxes import Pixels, class_colour, draw_boxes, legible
from .grid import encode
from .labels import draw_label_statistics, label_statistics
from .mistakes import WorstMistakes, find_mistakes
from .panels import draw_augmented, draw_predictions, draw_worst
from .views import SCORE_THRESHOLD, EvaluatedImage, ImageView, cut_view, split_batch

__all__ = [
    "SCORE_THRESHOLD",
    "EvaluatedImage",
    "ImageView",
    "Pixels",
    "WorstMistakes",
    "class_colour",
    "cut_view",
    "draw_augmented",
    "draw_boxes",
    "draw_label_statistics",
    "draw_predictions",
    "draw_worst",
    "encode",
    "find_mistakes",
    "label_statistics",
    "legible",
    "split_batch",
]
