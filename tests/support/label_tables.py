"""Tables of labels: one for each image, as references take them, and one for a batch, as losses do."""

from __future__ import annotations

import torch
from torch import Tensor


def join(targets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Tables (B, N, 5) and mask (B, N) as one table (B*N, 6), the image first, and mask (B*N,)."""
    image = torch.arange(len(mask))[:, None, None].expand(*mask.shape, 1)
    return torch.cat((image, targets), dim=-1).flatten(0, 1), mask.flatten()


def split(targets: Tensor, mask: Tensor, images: int) -> list[Tensor]:
    """The labels (n, 5) of each image of a batch, in order, from its table (R, 6) and mask (R,)."""
    labels = targets[mask]
    return [labels[labels[:, 0] == image, 1:] for image in range(images)]
