"""Multi-scale training: augmented batches resized to one of a few sizes; the step compiles once for each."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def training_sizes(size: int, extent: float, stride: int) -> list[int]:
    """Up to five multiples of ``stride``, spread evenly over ``size`` px times 1 ± ``extent``, ascending."""
    factors = (1 + extent * step / 2 for step in range(-2, 3))
    return sorted({max(1, round(size * factor / stride)) * stride for factor in factors})


def draw_size(sizes: list[int], seed: int, epoch: int, batch: int) -> int:
    """Size of a batch, a function of (seed, epoch, batch).

    Sizes come in rounds, each in random order: every size is as frequent, and the first few batches of a run
    show whether the largest fits into memory.
    """
    number, place = divmod(batch, len(sizes))
    order = np.random.default_rng((seed, epoch, number)).permutation(len(sizes))
    return sizes[order[place]]


def resize(images: Tensor, targets: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Resize squares (B, 3, S, S) and targets (R, 6) in px to ``size`` px, as classic YOLOv5 does."""
    factor = size / images.shape[-1]
    images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    return images, torch.cat((targets[:, :2], targets[:, 2:] * factor), dim=-1)
