"""Losses of fixed shape: tensors in, a scalar and its named parts out."""

from .anchor import AnchorLoss, AnchorLossConfig, scaled_gains
from .anchor_free import AnchorFreeLoss, AnchorFreeLossConfig

__all__ = ["AnchorFreeLoss", "AnchorFreeLossConfig", "AnchorLoss", "AnchorLossConfig", "scaled_gains"]
