"""Non-maximum suppression that can be exported: no branch on data, and a result of fixed shape."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms


def suppress(
    boxes: Tensor, scores: Tensor, score_threshold: float, iou_threshold: float, max_detections: int
) -> Tensor:
    """Detections of an image: per class, the best boxes that do not overlap a better one.

    It equals ``evaluation.detect.non_max_suppression`` without ``multi_label``.

    Args:
        boxes: float32 (K, 4) xyxy in px.
        scores: float32 (K, C) in 0..1.
        score_threshold: Score above which a box is a candidate, 0..1.
        iou_threshold: IoU with a better candidate of its class above which a candidate is dropped, 0..1.
        max_detections: D.

    Returns:
        float32 (D, 6): x1, y1, x2, y2 in px, score, class, best first; zero where there are fewer.
    """
    best, label = scores.max(dim=-1)  # (K,)
    candidate = (best > score_threshold).nonzero().squeeze(-1)  # (n,)
    boxes, best, label = boxes[candidate], best[candidate], label[candidate].float()
    rows = torch.cat((boxes, best[:, None], label[:, None]), dim=-1)  # (n, 6)
    # Classes lie apart along the diagonal, so that they do not suppress each other.
    reach = torch.cat((boxes.flatten().abs(), boxes.new_ones(1))).amax(dim=0) * 2 + 1
    apart = boxes + (label * reach)[:, None]
    # Two boxes far from all others, with the least score: torchvision tells torch.export that it keeps two
    # at least. Their rows are zero, and fill the table, whose shape is then known before it runs.
    far = boxes.new_tensor(((-4, -4, -3, -3), (-2, -2, -1, -1))) * reach
    keep = nms(torch.cat((apart, far)), torch.cat((best, best.new_zeros(2))), iou_threshold)  # k <= n + 2
    rows = torch.cat((rows, rows.new_zeros(2, 6)))  # (n + 2, 6)
    filler = torch.full((max_detections,), candidate.shape[0], dtype=torch.int64, device=keep.device)
    return rows[torch.cat((keep, filler))[:max_detections]]
