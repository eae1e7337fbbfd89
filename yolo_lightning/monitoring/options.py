"""Options of everything that a run draws, logs and reports."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError


@dataclass(frozen=True)
class DashboardConfig:
    """Pictures, curves and reports of a run; training needs none of them.

    Raises:
        InputError: a number is negative.
    """

    pictures: int = 8
    """Images in each panel (augmented images, predictions beside the truth, worst errors); 0: none."""
    pictures_every: int = 1
    """Epochs between two sets of pictures."""
    curves: bool = True
    """Precision and recall curves, F1 against confidence and the confusion matrix, after each validation."""
    graph: bool = True
    """Graph of the network, once."""
    feature_maps_every: int = 0
    """Epochs between two sets of feature maps of the first validation image; 0: none."""
    gpu_health: bool = True
    """Temperature, clocks, power and faults of the GPUs, read through NVML during training."""
    report: bool = True
    """Write report.html to the run directory at the end."""

    def __post_init__(self) -> None:
        for name, least in (("pictures", 0), ("pictures_every", 1), ("feature_maps_every", 0)):
            value = getattr(self, name)
            if value < least:
                raise InputError(f"dashboard.{name} is {value}; give {least} or more")
