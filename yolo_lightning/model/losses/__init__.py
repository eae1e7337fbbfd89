"""Losses of fixed shape, and their options."""

from typing import NamedTuple

from .anchor import AnchorLoss, AnchorLossConfig
from .anchor_free import AnchorFreeLoss, AnchorFreeLossConfig
from .base import DetectionLoss

__all__ = ["AnchorFreeLoss", "AnchorFreeLossConfig", "AnchorLoss", "AnchorLossConfig", "DetectionLoss"]


class LossConfigs(NamedTuple):
    """Options of all losses; a head picks its own in ``build_loss``."""

    anchor: AnchorLossConfig = AnchorLossConfig()
    anchor_free: AnchorFreeLossConfig = AnchorFreeLossConfig()
