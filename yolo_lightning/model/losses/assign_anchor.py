"""Label assignment of the classic head, with shapes that do not depend on the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..boxes import xyxy_to_xywh
from .base import may_list


class Candidates(NamedTuple):
    """Pairs of cell and anchor of a level that each label row may match: K = R * A * 3, or only matches."""

    weight: Tensor  # float32 (K,): number of times that the candidate counts; 0 for no match
    image: Tensor  # int64 (K,), image of the label row
    anchor: Tensor  # int64 (K,), index of the anchor
    row: Tensor  # int64 (K,), row of the cell
    column: Tensor  # int64 (K,), column of the cell
    box: Tensor  # float32 (K, 4): xywh in cells, the centre relative to the cell's corner
    label: Tensor  # float32 (K,), class of the label row


def match_candidates(
    targets: Tensor, mask: Tensor, anchors: Tensor, shape: Sequence[int], stride: int, anchor_threshold: float
) -> Candidates:
    """Match labels with anchors by the ratio of their sides, and with up to three cells.

    A label matches an anchor if neither side is ``anchor_threshold`` times longer or shorter. It then belongs
    to the cell of its centre, and along each axis to the nearer neighbour of that cell. Candidates that do
    not match are left out where :func:`~.base.may_list`; elsewhere they have weight 0.

    Args:
        targets: float32 (R, 6) image, class, x1, y1, x2, y2 in px.
        mask: bool (R,), which rows are labels.
        anchors: (A, 2) width and height in cells.
        shape: rows and columns of the level's map.
        stride: px a cell.
        anchor_threshold: least ratio of sides at which a label does not match an anchor.
    """
    if may_list(mask):
        targets, mask = targets[mask], mask[mask]
    boxes = xyxy_to_xywh(targets[:, 2:]) / stride  # (R, 4) in cells
    x, y, sides = boxes[:, 0], boxes[:, 1], boxes[:, 2:]  # (R,), (R,), (R, 2)
    # For a side of zero, as in padding, one of the two is infinite.
    ratio = sides[:, None] / anchors  # (R, A, 2)
    fits = torch.maximum(ratio, 1 / ratio).amax(dim=-1) < anchor_threshold  # (R, A)

    column, near_column, has_near_column, on_edge_x = _cells_along_axis(x, shape[1])
    row, near_row, has_near_row, on_edge_y = _cells_along_axis(y, shape[0])
    columns = torch.stack((column, near_column, column), dim=-1)  # (R, 3)
    rows = torch.stack((row, row, near_row), dim=-1)  # (R, 3)
    own_weight = 1 + on_edge_x.float() + on_edge_y.float()
    weight = torch.stack((own_weight, has_near_column.float(), has_near_row.float()), dim=-1)
    weight = weight[:, None] * (fits & mask[:, None])[..., None].float()  # (R, A, 3)

    centres = torch.stack((x[:, None] - columns, y[:, None] - rows), dim=-1)  # (R, 3, 2)
    relative = torch.cat((centres, sides[:, None].expand(-1, 3, -1)), dim=-1)  # (R, 3, 4)
    pairs = (len(mask), len(anchors), 3)
    anchor = torch.arange(len(anchors), device=targets.device)[:, None]

    def flat(tensor: Tensor) -> Tensor:
        return tensor.expand(pairs).reshape(-1)  # (K,)

    candidates = Candidates(
        weight=weight.reshape(-1),
        image=flat(targets[:, 0, None, None].long()),
        anchor=flat(anchor),
        row=flat(rows[:, None]),
        column=flat(columns[:, None]),
        box=relative[:, None].expand(*pairs, 4).reshape(-1, 4),
        label=flat(targets[:, 1, None, None]),
    )
    if not may_list(weight):
        return candidates
    matches = candidates.weight.nonzero().squeeze(1)
    return Candidates(*(values[matches] for values in candidates))


def _cells_along_axis(position: Tensor, cells: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cell of a position (R,) in 0 .. cells along one axis, and its nearer neighbour.

    Returns:
        Cell and neighbour, int64 (R,), clamped to the map. Whether there is a neighbour, bool (R,): not
        in the outer half of an outermost cell, nor in the middle of a cell. Whether the position is on the
        edge of two cells, bool (R,): there the classic code takes both the cell before and the cell after,
        which is the position's own, so that its own cell counts once more.
    """
    from_end = cells - position
    before = (position % 1 < 0.5) & (position > 1)
    after = (from_end % 1 < 0.5) & (from_end > 1)
    neighbour = torch.where(before, position - 0.5, position + 0.5).long()
    last = cells - 1
    return position.long().clamp(0, last), neighbour.clamp(0, last), before | after, before & after
