"""Train YOLOv5 with PyTorch Lightning, as fast as the machine allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .system import start_time as _start_time  # noqa: F401  # first: the wall time of a run begins here

if TYPE_CHECKING:
    from .cli.fit_callbacks import training_callbacks
    from .data.module import DetectionDataModule
    from .errors import InputError
    from .training.module import YOLOv5

__version__ = "0.1.0"
__all__ = ["DetectionDataModule", "InputError", "YOLOv5", "__version__", "training_callbacks"]


def __getattr__(name: str) -> Any:
    """Import the public classes when first asked for: the mathematics can be used without Lightning."""
    if name == "YOLOv5":
        from .training.module import YOLOv5

        return YOLOv5
    if name == "DetectionDataModule":
        from .data.module import DetectionDataModule

        return DetectionDataModule
    if name == "training_callbacks":
        from .cli.fit_callbacks import training_callbacks

        return training_callbacks
    if name == "InputError":
        from .errors import InputError

        return InputError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
