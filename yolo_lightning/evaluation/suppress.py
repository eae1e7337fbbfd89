"""Batched non-maximum suppression, in float32."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms


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
    """Detections of each image: per class, the best boxes that do not overlap a better one.

    Args:
        boxes: (B, K, 4) xyxy in px.
        scores: (B, K, C) in 0..1.
        score_threshold: score above which a box is a candidate for a class, 0..1.
        iou_threshold: IoU with a better candidate of its class above which a candidate is dropped, 0..1.
        max_detections: detections kept of an image, best first.
        max_candidates: candidates compared of an image, best first; bounds time and memory for an untrained
            network.
        multi_label: let a box be a candidate for every class above the threshold, not only for its best.

    Returns:
        detections, float32 (B, max_detections, 6): x1, y1, x2, y2 in px, score, class, best first; zero from
        the count on. counts, int64 (B,).
    """
    boxes, scores = boxes.float(), scores.float()
    detections = boxes.new_zeros((boxes.shape[0], max_detections, 6))
    counts = []
    for padded, image_boxes, image_scores in zip(detections, boxes, scores, strict=True):
        box, label, score = _candidates(
            image_boxes, image_scores, score_threshold, max_candidates, multi_label
        )
        candidate_boxes = image_boxes[box]  # (n, 4)
        # batched_nms separates classes by moving them along the diagonal, which requires coordinates that
        # are not negative; but a box may begin left of the image.
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
    """Box index, class and score, each (n,) with n <= most, of pairs above the threshold.

    ``boxes`` is (K, 4), ``scores`` is (K, C). Boxes that are not finite are left out.
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
