"""Feature maps of single layers: captured, drawn as grids, and summed up as an attention overlay."""

from .attention import attention_map, draw_overlay
from .capture import LayerOutputs, capture, check_layers, describe_layer, feature_maps, head_layers
from .maps import Interpolation, draw_grid, strongest_channels

__all__ = [
    "Interpolation",
    "LayerOutputs",
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
