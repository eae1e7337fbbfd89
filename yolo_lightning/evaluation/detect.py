"""Detections in pixels of the original images, and mean losses of an evaluation."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.batch import Batch
from ..data.letterbox import from_letterbox
from ..model.heads import Head
from .suppress import non_max_suppression


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
        score_threshold: lowest score to report, 0..1.
        iou_threshold: IoU above which only the best of two boxes of one class is kept, 0..1.
        multi_label: report a box for each class above the threshold, not only for its best.

    Returns:
        float32 (B, D, 6): x1, y1, x2, y2 in px of the original images, clipped to them, score, class; rows
        from the count on are padding. int64 (B,), the count.
    """
    with torch.autocast(batch.images.device.type, enabled=False):
        boxes, scores = head.decode(maps)
        detections, counts = non_max_suppression(
            boxes,
            scores,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            multi_label=multi_label,
        )
        original = from_letterbox(detections[..., :4], batch.letterbox, batch.original_sizes)
        return torch.cat((original, detections[..., 4:]), dim=-1), counts


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
