"""Train YOLOv5 with PyTorch Lightning, as fast as the machine allows."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .system import start_time as _start_time  # noqa: F401  # first: the wall time of a run begins here

if TYPE_CHECKING:
    from .cli.export import export_model
    from .cli.fit import fit
    from .cli.fit_callbacks import training_callbacks
    from .data.module import DetectionDataModule
    from .errors import InputError
    from .inference.detections import Detections
    from .inference.detector import Detector
    from .training.ema import ExponentialMovingAverage
    from .training.module import YOLOv5

__version__ = "0.1.0"
__all__ = [
    "DetectionDataModule",
    "Detections",
    "Detector",
    "ExponentialMovingAverage",
    "InputError",
    "YOLOv5",
    "__version__",
    "export_model",
    "fit",
    "training_callbacks",
]
_MODULES = {
    "DetectionDataModule": "data.module",
    "Detections": "inference.detections",
    "Detector": "inference.detector",
    "ExponentialMovingAverage": "training.ema",
    "InputError": "errors",
    "YOLOv5": "training.module",
    "export_model": "cli.export",
    "fit": "cli.fit",
    "training_callbacks": "cli.fit_callbacks",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, because the mathematics needs no Lightning."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
