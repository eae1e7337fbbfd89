"""From raw maps to detections: decoding of both heads, and batched non-maximum suppression.

Everything is computed in float32, whatever the precision of the maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from ..model.boxes import xywh_to_xyxy


def decode_anchor(maps: Sequence[Tensor], anchors: Tensor, strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Boxes and class scores of the classic anchor head.

    With s the sigmoid of the raw value, a cell at column i and row j of a level and an anchor of w x h px:
    centre = (2 s - 0.5 + (i, j)) * stride, size = (2 s)^2 * (w, h), score = s(objectness) * s(class)
    (the YOLOv5 head since v2.0, https://github.com/ultralytics/yolov5/issues/471).

    Args:
        maps: for each level, (B, A, H, W, 5 + C): x, y, w, h, objectness and C class logits.
        anchors: (L, A, 2) width and height in units of the level's stride.
        strides: L strides in px.

    Returns:
        boxes, float32 (B, K, 4) xyxy in px of the network's input, K = sum of A * H * W, not clipped;
        scores, float32 (B, K, C) in 0..1.
    """
    boxes, scores = [], []
    for raw, anchor, stride in zip(maps, anchors, strides, strict=True):
        batch, _, height, width, _ = raw.shape
        activated = raw.float().sigmoid()  # (B, A, H, W, 5+C)
        cells = _cell_corners(height, width, raw.device)  # (H, W, 2)
        centre = (activated[..., :2] * 2 - 0.5 + cells) * stride
        anchor_px = anchor.to(device=raw.device, dtype=torch.float32) * stride
        size = (activated[..., 2:4] * 2).square() * anchor_px[:, None, None]
        boxes.append(xywh_to_xyxy(torch.cat((centre, size), dim=-1)).reshape(batch, -1, 4))
        score = activated[..., 5:] * activated[..., 4:5]  # (B, A, H, W, C)
        scores.append(score.flatten(1, 3))
    return torch.cat(boxes, dim=1), torch.cat(scores, dim=1)  # (B, K, 4), (B, K, C)


def decode_anchor_free(
    maps: Sequence[Tensor], strides: Sequence[int], reg_max: int = 16
) -> tuple[Tensor, Tensor]:
    """Boxes and class scores of the anchor-free head.

    The distance from a cell's centre to each side of the box is the mean of a distribution over
    0 .. reg_max - 1 strides (Li et al. 2020, https://arxiv.org/abs/2006.04388).

    Args:
        maps: for each level, (B, 4 * reg_max + C, H, W): logits of the distances to the left, top, right
            and bottom side (reg_max each), then C class logits.
        strides: strides in px, one a level.
        reg_max: bins of a distribution.

    Returns:
        boxes, float32 (B, K, 4) xyxy in px of the network's input, K = sum of H * W, not clipped;
        scores, float32 (B, K, C) in 0..1.
    """
    bins = torch.arange(reg_max, dtype=torch.float32, device=maps[0].device)
    boxes, scores = [], []
    for raw, stride in zip(maps, strides, strict=True):
        height, width = raw.shape[-2:]
        rows = raw.float().flatten(2).transpose(1, 2)  # (B, H*W, 4*reg_max+C)
        logits = rows[..., : 4 * reg_max].reshape(*rows.shape[:2], 4, reg_max)  # (B, H*W, 4, reg_max)
        distance = logits.softmax(dim=-1) @ bins  # (B, H*W, 4) left, top, right, bottom
        centre = (_cell_corners(height, width, raw.device) + 0.5).reshape(-1, 2)  # (H*W, 2)
        corners = torch.cat((centre - distance[..., :2], centre + distance[..., 2:]), dim=-1)
        boxes.append(corners * stride)
        scores.append(rows[..., 4 * reg_max :].sigmoid())
    return torch.cat(boxes, dim=1), torch.cat(scores, dim=1)  # (B, K, 4), (B, K, C)


def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    *,
    score_threshold: float = 0.001,
    iou_threshold: float = 0.6,
    max_detections: int = 300,
    max_candidates: int = 4096,
    multi_label: bool = True,
) -> tuple[Tensor, Tensor]:
    """The detections of each image: per class, the best boxes that do not overlap a better one.

    Args:
        boxes: (B, K, 4) xyxy in px.
        scores: (B, K, C) in 0..1.
        score_threshold: a box is a candidate for a class when its score is above this, 0..1.
        iou_threshold: a candidate is dropped when its IoU with a better one of its class is above this, 0..1.
        max_detections: how many detections an image keeps, best first.
        max_candidates: how many candidates of an image are compared at most, best first. It bounds time and
            memory for a network that is not trained yet.
        multi_label: let a box be a candidate for every class above the threshold, else for its best class.

    Returns:
        detections, float32 (B, max_detections, 6): x1, y1, x2, y2 in px, score, class, best first; zero from
        the image's count on. counts, int64 (B,).
    """
    boxes, scores = boxes.float(), scores.float()
    detections = boxes.new_zeros((boxes.shape[0], max_detections, 6))
    counts = []
    for padded, image_boxes, image_scores in zip(detections, boxes, scores, strict=True):
        box, label, score = _candidates(
            image_boxes, image_scores, score_threshold, max_candidates, multi_label
        )
        candidate_boxes = image_boxes[box]  # (n, 4)
        # batched_nms tells classes apart by moving them along the diagonal, which holds only for
        # coordinates that are not negative; a box may well begin left of the image.
        shifted = candidate_boxes - candidate_boxes.amin() if len(box) else candidate_boxes
        keep = batched_nms(shifted, score, label, iou_threshold)[:max_detections]
        padded[: len(keep)] = torch.cat(
            (candidate_boxes[keep], score[keep, None], label[keep, None].float()), dim=-1
        )
        counts.append(len(keep))
    return detections, torch.tensor(counts, dtype=torch.int64, device=boxes.device)


def _candidates(
    boxes: Tensor, scores: Tensor, threshold: float, most: int, multi_label: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Box index, class and score, each (n,) with n <= most, of the pairs above the threshold.

    ``boxes`` is (K, 4), ``scores`` is (K, C). A box that is not finite is no candidate.
    """
    if multi_label:
        box, label = (scores > threshold).nonzero(as_tuple=True)
        score = scores[box, label]
    else:
        best, best_label = scores.max(dim=-1)
        box = (best > threshold).nonzero().squeeze(-1)
        label, score = best_label[box], best[box]
    finite = boxes[box].isfinite().all(dim=-1)
    if not bool(finite.all()):  # one diverged box would spoil every comparison of its image
        box, label, score = box[finite], label[finite], score[finite]
    if len(score) > most:
        score, order = score.topk(most)
        box, label = box[order], label[order]
    return box, label, score


def _cell_corners(height: int, width: int, device: torch.device) -> Tensor:
    """Column and row of every cell: float32 (H, W, 2)."""
    rows = torch.arange(height, dtype=torch.float32, device=device)
    columns = torch.arange(width, dtype=torch.float32, device=device)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack((x, y), dim=-1)
