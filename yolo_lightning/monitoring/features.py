"""Feature maps of single layers: captured, drawn as grids, and summed up as an attention overlay."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..model.network import DetectionNetwork
from .pictures.draw_boxes import Floats, Pixels

Interpolation = Literal["nearest", "bilinear"]

_METHODS = {"nearest": cv2.INTER_NEAREST, "bilinear": cv2.INTER_LINEAR}
_GAP_PX = 4
_PERCENTILES = (1, 99)
"""Percentiles of a channel at the ends of the colour scale."""
_BRIGHTEST = 99
"""Percentile of an attention map that has the brightest colour."""
_STRENGTH = 0.55
"""Weight of the attention's colours over the image, 0..1."""


def describe_layer(network: DetectionNetwork, number: int) -> str:
    """Number and kind of a layer, such as ``17 C3``."""
    return f"{number} {type(network.model[number]).__name__}"


def check_layers(network: DetectionNetwork, layers: Sequence[int], option: str = "layers") -> list[int]:
    """Check the numbers of layers, and remove duplicates.

    Raises:
        InputError: a layer does not exist or is the head, or the list is empty; names the user's option.
    """
    last = len(network.model) - 2  # the head comes after it
    wrong = [number for number in layers if not 0 <= number <= last]
    if layers and not wrong:
        return list(dict.fromkeys(layers))
    problem = f"there is no layer {wrong[0]} with feature maps" if wrong else "no layer is named"
    known = ", ".join(describe_layer(network, number) for number in range(last + 1))
    raise InputError(f"{option}: {problem}; there are {known}")


@torch.no_grad()
def feature_maps(
    network: DetectionNetwork, images: Tensor, layers: Sequence[int]
) -> tuple[list[Tensor], dict[int, Tensor]]:
    """Run one eager pass in evaluation mode, and capture the outputs of layers.

    The network does not change: neither parameters, gradients, batch-norm statistics nor training mode.

    Args:
        network: on any device, in any precision.
        images: float (B, 3, H, W) in 0..1, sides multiples of the largest stride.
        layers: numbers of the layers; ``network.head_sources`` are those that the head reads.

    Returns:
        Raw maps of the head, one per level, and the outputs (B, C, H/s, W/s) by the number of the layer.

    Raises:
        InputError: a layer does not exist.
    """
    layers, parameter = check_layers(network, layers), next(network.parameters())
    found: dict[int, Tensor] = {}

    def keep(number: int, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        found[number] = output

    with ExitStack() as restore:
        for module in network.modules():
            restore.callback(setattr, module, "training", module.training)
        for number in layers:
            hook = network.model[number].register_forward_hook(functools.partial(keep, number))
            restore.callback(hook.remove)
        network.eval()
        raw = network(images.to(parameter.device, parameter.dtype))
    return raw, {number: found[number] for number in layers}


def strongest_channels(features: Floats, most: int) -> list[int]:
    """Numbers of the ``most`` channels of (C, h, w) with the largest variance, the largest first."""
    variances = _finite(features).var(axis=(1, 2), dtype=np.float64)
    return [int(channel) for channel in np.argsort(-variances, kind="stable")[:most]]


def draw_grid(
    features: Floats, most: int = 32, tile_px: int = 160, interpolation: Interpolation = "nearest"
) -> Pixels:
    """Draw the channels with the largest variance as tiles, row by row, dark (low) to yellow (high).

    Each channel has its own scale, from its 1st to its 99th percentile, so that one extreme cell does not
    hide the others.

    Args:
        features: (C, h, w) of one image.
        most: maximum number of tiles.
        tile_px: approximate longer side of a tile; a cell is a whole number of px.
        interpolation: nearest shows the cells, bilinear blends them.

    Returns:
        RGB (H, W, 3), about as wide as high.
    """
    channels, (height, width) = strongest_channels(features, most), features.shape[1:]
    factor = max(1, round(tile_px / max(height, width)))
    height, width = height * factor, width * factor
    columns = max(1, min(len(channels), round(math.sqrt(len(channels) * height / width))))
    rows = math.ceil(len(channels) / columns)
    shape = (_GAP_PX + rows * (height + _GAP_PX), _GAP_PX + columns * (width + _GAP_PX), 3)
    canvas = np.full(shape, 255, np.uint8)
    for place, channel in enumerate(channels):
        top = _GAP_PX + place // columns * (height + _GAP_PX)
        left = _GAP_PX + place % columns * (width + _GAP_PX)
        values = _to_unit(features[channel])
        scaled = cv2.resize(values, (width, height), interpolation=_METHODS[interpolation])
        canvas[top : top + height, left : left + width] = _coloured(scaled, cv2.COLORMAP_VIRIDIS)
    return canvas


def _finite(features: Floats) -> Floats:
    """Features with 0 in place of NaN and infinity, which a diverging training has."""
    return np.nan_to_num(features.astype(np.float32, copy=False), nan=0.0, posinf=0.0, neginf=0.0)


def _coloured(values: npt.NDArray[Any], colour_map: int) -> Pixels:
    """Numbers (H, W) in 0..1 as RGB (H, W, 3), by one of OpenCV's colour maps."""
    levels = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(levels, colour_map)[..., ::-1])


def _to_unit(channel: Floats) -> Floats:
    """A channel (h, w) scaled to 0..1; a constant channel is 0."""
    values = _finite(channel)
    low, high = np.percentile(values, _PERCENTILES)
    if high <= low:  # a few cells may still stand out
        low, high = float(values.min()), float(values.max())
    return np.clip((values - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)


def attention_map(features: Sequence[Floats], boxes: Floats, size: tuple[int, int]) -> Floats:
    """Similarity of each place to the detected objects, in the features of the network.

    EigenCAM (Muhammad and Yeasin 2020, https://arxiv.org/abs/2008.00299) projects the features of a layer
    on their first principal component. In many scenes that component is the background's, so we take the
    component of the cells that detections cover. With a_i the features of cell i minus their mean over the
    image, and w_i the fraction of the cell that boxes cover:

        v = first eigenvector of sum_i w_i a_i a_i^T,    map_i = max(0, a_i . v),

    with the sign of v such that sum_i w_i a_i . v > 0. The boxes choose the direction and mask nothing:
    similar places are bright outside the boxes, too. Without boxes w_i is 1, as in EigenCAM, and v points
    to large activations. Each layer's map is scaled to its maximum; several layers are averaged.

    Args:
        features: for each layer, (C, h, w) of one image.
        boxes: (n, 4) x1, y1, x2, y2 in px of the network's input; n may be 0.
        size: height and width of that input in px.

    Returns:
        float32 (H, W) in 0..1.
    """
    height, width = size
    covered, total = np.zeros((2, height, width), np.float32)
    for x1, y1, x2, y2 in np.rint(boxes[:, :4]).astype(int).clip(0).tolist():
        covered[y1:y2, x1:x2] = 1
    for layer in features:
        projected = _project(_finite(layer), covered)
        total += cv2.resize(projected, (width, height), interpolation=cv2.INTER_LINEAR)
    brightest = float(np.percentile(total, _BRIGHTEST)) or float(total.max())
    return np.clip(total / max(brightest, 1e-12), 0, 1).astype(np.float32)


def draw_overlay(image: Pixels, attention: Floats) -> Pixels:
    """Blend an image (H, W, 3) with its attention (H, W) in 0..1: dark for none, over red, to yellow."""
    colours = _coloured(attention, cv2.COLORMAP_INFERNO)
    blended = (1 - _STRENGTH) * image.astype(np.float32) + _STRENGTH * colours
    return np.rint(blended).astype(np.uint8)


def _project(features: Floats, covered: Floats) -> Floats:
    """The map (h, w) of one layer (C, h, w), from 0 to 1 at its maximum."""
    channels, height, width = features.shape
    # Fraction of each cell that boxes cover: (h*w,)
    share = cv2.resize(covered, (width, height), interpolation=cv2.INTER_AREA).reshape(-1)
    cells = features.reshape(channels, -1).astype(np.float64)  # (C, h*w)
    centred = cells - cells.mean(axis=1, keepdims=True)
    contrasts = share.max() > share.min()
    direction = _first_component(centred * np.sqrt(share) if contrasts else centred)
    projected = direction @ centred  # (h*w,)
    towards = share if contrasts else np.linalg.norm(cells, axis=0)
    if projected @ towards < 0:
        projected = -projected
    positive = np.maximum(projected, 0)
    return (positive / max(float(positive.max()), 1e-12)).reshape(height, width).astype(np.float32)


def _first_component(cells: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The first eigenvector (C,) of cells cells^T, by the smaller of the two products."""
    if cells.shape[0] <= cells.shape[1]:
        return np.linalg.eigh(cells @ cells.T)[1][:, -1]
    direction = cells @ np.linalg.eigh(cells.T @ cells)[1][:, -1]
    return direction / max(float(np.linalg.norm(direction)), 1e-12)
