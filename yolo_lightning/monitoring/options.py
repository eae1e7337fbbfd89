"""What a run shows of itself, as options."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError


@dataclass(frozen=True)
class DashboardConfig:
    """What is drawn, logged and reported; none of it is needed to train.

    Raises:
        InputError: a number is negative.
    """

    pictures: int = 8
    """Images in each panel: what the network sees, predictions beside the truth, worst errors; 0: none."""
    pictures_every: int = 1
    """Epochs between two sets of pictures."""
    curves: bool = True
    """Precision and recall curves, F1 against confidence and the confusion matrix, after each validation."""
    graph: bool = True
    """The graph of the network, once."""
    feature_maps_every: int = 0
    """Epochs between two sets of feature maps of the first validation image; 0: none."""
    gpu_health: bool = True
    """Temperature, clocks, power and faults of the GPUs, read by NVML beside the training."""
    report: bool = True
    """report.html in the run directory, at the end."""

    def __post_init__(self) -> None:
        for name, least in (("pictures", 0), ("pictures_every", 1), ("feature_maps_every", 0)):
            value = getattr(self, name)
            if value < least:
                raise InputError(f"dashboard.{name} is {value}; give {least} or more")
