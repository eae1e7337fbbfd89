"""Pictures of images with their boxes, and of the labels of a data set; drawn on the CPU, in RGB."""

from .boxes import Colour, Floats, Pixels, class_colour, draw_boxes, legible
from .errors import Errors, Mistake, WorstErrors, find_errors
from .grid import Tile, encode, tile_grid, write_whole
from .labels import LabelStatistics, draw_label_statistics, label_statistics
from .panels import draw_augmented, draw_predictions, draw_worst
from .views import SCORE_THRESHOLD, EvaluatedImage, View, cut_view, take_apart

__all__ = [
    "SCORE_THRESHOLD",
    "Colour",
    "Errors",
    "EvaluatedImage",
    "Floats",
    "LabelStatistics",
    "Mistake",
    "Pixels",
    "Tile",
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
    "tile_grid",
    "write_whole",
]
