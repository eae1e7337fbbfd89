"""Attention of a network over an image: EigenCAM, guided by the detections."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from .maps import METHODS, Floats, Pixels, coloured, finite

_BRIGHTEST = 99
"""Percentile of the map that has the brightest colour."""
_STRENGTH = 0.55
"""Weight of the colours over the image, 0..1."""


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
    covered = np.zeros((height, width), np.float32)
    for x1, y1, x2, y2 in np.rint(boxes[:, :4]).astype(int).clip(0).tolist():
        covered[y1:y2, x1:x2] = 1
    total = np.zeros((height, width), np.float32)
    for layer in features:
        projected = _project(finite(layer), covered)
        total += cv2.resize(projected, (width, height), interpolation=METHODS["bilinear"])
    brightest = float(np.percentile(total, _BRIGHTEST)) or float(total.max())
    return np.clip(total / max(brightest, 1e-12), 0, 1).astype(np.float32)


def draw_overlay(image: Pixels, attention: Floats) -> Pixels:
    """Blend an image (H, W, 3) with its attention (H, W) in 0..1: dark for none, over red, to yellow."""
    colours = coloured(attention, cv2.COLORMAP_INFERNO)
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
