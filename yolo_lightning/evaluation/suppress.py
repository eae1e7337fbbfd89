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
