"""Losses of fixed shape, and the contract that a loss fulfils."""

from .anchor import AnchorLoss, AnchorLossConfig
from .anchor_free import AnchorFreeLoss, AnchorFreeLossConfig
from .protocol import DetectionLoss, LossConfigs

__all__ = [
    "AnchorFreeLoss",
    "AnchorFreeLossConfig",
    "AnchorLoss",
    "AnchorLossConfig",
    "DetectionLoss",
    "LossConfigs",
]
