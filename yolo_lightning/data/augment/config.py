"""Options of the augmentation, with the defaults of classic YOLOv5's ``hyp.scratch-low``."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import InputError

LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("hsv_h", "hsv_s", "hsv_v", "translate"), (0.0, 1.0)),
    **dict.fromkeys(("flip_up_down", "flip_left_right", "mosaic", "mixup"), (0.0, 1.0)),
    **dict.fromkeys(("cutmix", "bgr"), (0.0, 1.0)),
    "degrees": (0.0, 180.0),
    "scale": (0.0, 0.99),
    "shear": (0.0, 45.0),
    "perspective": (0.0, 0.001),
    "close_mosaic": (0, float("inf")),
    "multi_scale": (0.0, 0.9),
}
"""The values that each field may take, both ends included."""


@dataclass(frozen=True)
class AugmentationConfig:
    """Ranges and probabilities of the augmentation.

    Raises:
        InputError: A value is outside its range.
    """

    hsv_h: float = 0.015
    """Hue gain, drawn from 1 ± this fraction (0 to 1)."""
    hsv_s: float = 0.7
    """Saturation gain, drawn from 1 ± this fraction (0 to 1)."""
    hsv_v: float = 0.4
    """Value (brightness) gain, drawn from 1 ± this fraction (0 to 1)."""
    degrees: float = 0.0
    """Rotation, drawn from ± this angle in degrees (0 to 180)."""
    translate: float = 0.1
    """Shift of the centre, drawn from ± this fraction of the image side (0 to 1)."""
    scale: float = 0.5
    """Zoom, drawn from 1 ± this fraction (0 to 0.99)."""
    shear: float = 0.0
    """Shear along x and along y, each drawn from ± this angle in degrees (0 to 45)."""
    perspective: float = 0.0
    """Perspective along x and along y, each drawn from ± this fraction per pixel (0 to 0.001)."""
    flip_up_down: float = 0.0
    """Probability of an up-down flip (0 to 1)."""
    flip_left_right: float = 0.5
    """Probability of a left-right flip (0 to 1)."""
    mosaic: float = 1.0
    """Probability that an image becomes a mosaic of four (0 to 1)."""
    mixup: float = 0.0
    """Probability that a mosaic is blended with another mosaic (0 to 1)."""
    cutmix: float = 0.0
    """Probability that a rectangle of another mosaic is pasted where a mosaic has no label, in place of mixup
    (0 to 1)."""
    bgr: float = 0.0
    """Probability that red and blue are swapped (0 to 1)."""
    close_mosaic: int = 0
    """Number of last epochs without mosaic, and so without mixup and cutmix (0 or more)."""
    multi_scale: float = 0.0
    """Resize each batch to one of five sizes between 1 ± this fraction of the image size (0 to 0.9); 0.5 is
    classic YOLOv5's, whose largest batches take 2.25 times the memory."""

    def __post_init__(self) -> None:
        for key, (low, high) in LIMITS.items():
            value = getattr(self, key)
            if not low <= value <= high:
                bounds = f"at least {low}" if high == float("inf") else f"between {low} and {high}"
                raise InputError(f"augmentation option {key} is {value}: set it to a value {bounds}.")

    @property
    def views(self) -> int:
        """Mosaics that a sample may be made of."""
        return 2 if self.mixup > 0 or self.cutmix > 0 else 1

    @property
    def changes_colour(self) -> bool:
        """True if any colour gain can differ from 1."""
        return self.hsv_h > 0 or self.hsv_s > 0 or self.hsv_v > 0

    @property
    def axis_aligned(self) -> bool:
        """True if rows stay rows and columns stay columns: no rotation, shear or perspective."""
        return self.degrees == 0 and self.shear == 0 and self.perspective == 0
