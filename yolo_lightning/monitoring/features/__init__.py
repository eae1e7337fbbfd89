"""What the layers of a network make of an image: captured, and drawn as grids and as an overlay."""

from .attention import attention_map, draw_overlay
from .capture import FeatureMaps, capture, check_layers, describe_layer, feature_maps, head_layers
from .maps import Interpolation, draw_grid, strongest_channels

__all__ = [
    "FeatureMaps",
    "Interpolation",
    "attention_map",
    "capture",
    "check_layers",
    "describe_layer",
    "draw_grid",
    "draw_overlay",
    "feature_maps",
    "head_layers",
    "strongest_channels",
]
