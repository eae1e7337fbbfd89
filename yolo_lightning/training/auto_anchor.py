"""Auto-anchor: anchors that the labels of the data set match, found before a training starts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import InputError
from ..model.anchors import best_possible_recall, find_anchors

GOOD_RECALL = 0.98
"""Best possible recall above which anchors are kept, as in classic YOLOv5."""


def read_anchors(rows_px: list[list[float]]) -> Tensor:
    """Anchors (L, A, 2) of ``model.anchors``.

    Raises:
        InputError: the levels have different numbers of anchors, or a number is missing or not above 0.
    """
    widths = {len(row) for row in rows_px}
    if len(widths) != 1 or widths.pop() % 2 or not all(side > 0 for row in rows_px for side in row):
        raise InputError(
            f"model.anchors is {rows_px}; give one list a level, of as many widths and heights above 0 px, "
            "like [[10,13, 16,30], [30,61, 62,45], [116,90, 156,198]]"
        )
    return torch.tensor(rows_px, dtype=torch.float32).unflatten(1, (-1, 2))


def look_for_anchors(
    anchors_px: Tensor, sizes_px: npt.NDArray[np.float32], threshold: float, always: bool
) -> tuple[Tensor | None, str]:
    """Find anchors for labels of which too few match the present ones.

    Args:
        anchors_px: (L, A, 2), the present anchors; the new ones begin with the level of the smallest, too.
        sizes_px: (T, 2) width and height of the training labels in the network's input, above 0.
        threshold: ratio of two sides from which on label and anchor do not match.
        always: take others also if enough labels match.

    Returns:
        The new anchors (L, A, 2), rounded to 0.01 px, or None; and a sentence for the log.
    """
    before = anchors_px.flatten(0, 1).numpy()  # (L * A, 2)
    if not len(sizes_px):
        return None, "anchors: kept, because there are no labels to find others"
    recall = best_possible_recall(sizes_px, before, threshold)
    if recall > GOOD_RECALL and not always:
        return None, f"anchors: kept, best possible recall {recall:.4f}"
    found = find_anchors(sizes_px, len(before), threshold).round(2)
    reached = best_possible_recall(sizes_px, found, threshold)
    if reached <= recall and not always:
        return None, f"anchors: kept, best possible recall {recall:.4f}, others reach {reached:.4f}"
    shown = ", ".join(f"{width:g}x{height:g}" for width, height in found.tolist())
    change = f"best possible recall {reached:.4f} instead of {recall:.4f}"
    new = torch.from_numpy(found).view_as(anchors_px)
    area = anchors_px.prod(dim=-1).mean(dim=-1)  # (L,)
    return new.flip(0) if area[0] > area[-1] else new, f"anchors: new ones, {change}: {shown} px"
