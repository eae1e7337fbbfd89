"""Effects of classic YOLOv5's Albumentations: some images are blurred, grey, or of equalised contrast."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from .decode import Pixels

PROBABILITY = 0.01
"""Probability of each effect, as in the classic code."""


class Effects(NamedTuple):
    """Blur, median blur, grey and CLAHE, each for some images: a function of (seed, epoch, index)."""

    seed: int
    probability: float = PROBABILITY

    def apply(self, image: Pixels, epoch: int, index: int) -> None:
        """Change an image, uint8 (H, W, 3) RGB, in place."""
        random = np.random.default_rng((self.seed, epoch, index))
        for effect in (_blur, _median_blur, _grey, _equalise):
            if random.random() < self.probability:
                image[:] = effect(image, random)


def _blur(image: Pixels, random: np.random.Generator) -> cv2.typing.MatLike:
    side = _kernel_px(random)
    return cv2.blur(image, (side, side))


def _median_blur(image: Pixels, random: np.random.Generator) -> cv2.typing.MatLike:
    return cv2.medianBlur(image, _kernel_px(random))


def _kernel_px(random: np.random.Generator) -> int:
    return int(random.choice((3, 5, 7)))


def _grey(image: Pixels, random: np.random.Generator) -> cv2.typing.MatLike:
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def _equalise(image: Pixels, random: np.random.Generator) -> cv2.typing.MatLike:
    """CLAHE of the lightness (https://doi.org/10.1016/B978-0-12-336156-1.50061-6)."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(random.uniform(1, 4), (8, 8)).apply(lab[..., 0])
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
