"""Batched augmentation on the training device: mosaic, affine, mixup, colour and flips.

``Augmentation`` turns the uint8 images of a ``Batch`` into the network's input, with the semantics and the
default ranges of classic YOLOv5 (ultralytics/yolov5 v7.0, ``hyp.scratch-low``).
"""

from __future__ import annotations

from .augmentation import Augmentation, normalise
from .config import AugmentationConfig

__all__ = ["Augmentation", "AugmentationConfig", "normalise"]
