"""Multi-scale training: augmented batches resized to one of a few sizes; the step compiles once for each."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..image_size import Size


def training_sizes(size: Size, extent: float, stride: int) -> list[Size]:
    """Up to five sizes, spread evenly over ``size`` times 1 ± ``extent``, ascending.

    Both sides are multiples of ``stride`` px.
    """
    found: dict[Size, None] = {}
    for factor in (1 + extent * step / 2 for step in range(-2, 3)):
        height, width = (max(1, round(side * factor / stride)) * stride for side in size)
        found[height, width] = None
    return list(found)


def draw_size(sizes: list[Size], seed: int, epoch: int, batch: int) -> Size:
    """Size of a batch, a function of (seed, epoch, batch).

    Sizes come in rounds, each in random order: every size is as frequent, and the first few batches of a run
    show whether the largest fits into memory.
    """
    number, place = divmod(batch, len(sizes))
    order = np.random.default_rng((seed, epoch, number)).permutation(len(sizes))
    return sizes[order[place]]


def resize(images: Tensor, targets: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Resize images (B, 3, H, W) and targets (R, 6) in px to ``size`` px, as classic YOLOv5 does."""
    factor_y, factor_x = (new / old for new, old in zip(size, images.shape[2:], strict=True))
    images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    x, y = targets[:, 2::2] * factor_x, targets[:, 3::2] * factor_y  # (R, 2) each
    return images, torch.cat((targets[:, :2], torch.stack((x, y), dim=-1).flatten(1)), dim=-1)
