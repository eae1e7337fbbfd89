"""Detections in pixels of the original images, and mean losses of an evaluation."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from ..data.batch import Batch
from ..data.letterbox import from_letterbox
from ..model.heads import Head


@torch.no_grad()
def detect(
    head: Head,
    maps: list[Tensor],
    batch: Batch,
    *,
    score_threshold: float = 0.001,
    iou_threshold: float = 0.6,
    multi_label: bool = True,
) -> tuple[Tensor, Tensor]:
    """Decode, suppress and map back, in float32 for maps of any precision.

    Args:
        head: head of the network.
        maps: its raw maps for the images of ``batch``.
        batch: the batch, with the letterbox of each image.
        score_threshold: least score of a detection, 0..1.
        iou_threshold: greatest IoU of two detections of one class, 0..1.
        multi_label: each box may be a detection of several classes.

    Returns:
        float32 (B, D, 6): x1, y1, x2, y2 in px of the original images, clipped to them, score, class; rows
        from the count on are padding. int64 (B,), the count.
    """
    with torch.autocast(batch.images.device.type, enabled=False):
        boxes, scores = head.decode(maps)
        return select_detections(
            boxes, scores, batch, score_threshold=score_threshold, iou_threshold=iou_threshold,
            multi_label=multi_label,
        )  # fmt: skip


def select_detections(
    boxes: Tensor,
    scores: Tensor,
    batch: Batch,
    *,
    score_threshold: float = 0.001,
    iou_threshold: float = 0.6,
    multi_label: bool = True,
) -> tuple[Tensor, Tensor]:
    """Detections from decoded boxes (B, K, 4) and scores (B, K, C), as :func:`detect` returns them."""
    detections, counts = non_max_suppression(
        boxes, scores, score_threshold, iou_threshold, multi_label=multi_label
    )
    original = from_letterbox(detections[..., :4], batch.letterbox, batch.original_sizes)
    return torch.cat((original, detections[..., 4:]), dim=-1), counts


def non_max_suppression(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float = 0.001,
    iou_threshold: float = 0.6,
    *,
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


class MeanLosses:
    """Mean losses over all images of all ranks, in one exchange.

    Args:
        names: names of the losses.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._sums: Tensor | None = None

    def add(self, losses: dict[str, Tensor], images: int) -> None:
        """Add mean losses of a batch of images, without reading from the device."""
        values = torch.stack([losses[name].detach().double() for name in self.names])
        row = torch.cat((values * images, values.new_tensor([images])))  # (losses + 1,)
        self._sums = row if self._sums is None else self._sums + row

    def take(self, device: torch.device) -> dict[str, Tensor]:
        """The means, float32 scalars, NaN if no rank had an image; start anew.

        Args:
            device: device on which ranks without an image take part in the exchange.
        """
        sums = self._sums
        if sums is None:
            sums = torch.zeros(len(self.names) + 1, dtype=torch.float64, device=device)
        self._sums = None
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        return dict(zip(self.names, (sums[:-1] / sums[-1]).float(), strict=True))
