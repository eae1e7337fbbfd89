"""The ways to compute a training step, and what was measured of them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ...data.augment import AugmentationConfig

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
LOSS_TOLERANCE = 0.05
"""Part of the loss in fp32 by which the loss of another precision may differ."""


@dataclass(frozen=True)
class StepShape:
    """All that the duration of a step depends on, apart from how it is computed."""

    architecture: str
    """As ``model.architecture``."""
    num_classes: int
    image_size: int
    """S in px."""
    batch_size: int
    """B, images on this device."""
    label_capacity: int
    """N, label rows of an image in a batch."""
    device: str = "cpu"
    """As torch names it: cpu, cuda:0."""
    augmentation: AugmentationConfig = AugmentationConfig()

    @property
    def label_rows(self) -> int:
        """Label rows of an augmented image: those of all its tiles."""
        return self.label_capacity * (8 if self.augmentation.mixup > 0 else 4)

    @property
    def device_type(self) -> str:
        """Cpu, cuda or mps."""
        return self.device.split(":")[0]


@dataclass(frozen=True)
class Candidate:
    """A way to compute the step."""

    precision: Precision
    channels_last: bool
    """Memory order of weights and activations; False means contiguous images too."""
    compile: bool
    """Whether network and loss are compiled to one graph."""

    def __str__(self) -> str:
        order = "channels last" if self.channels_last else "channels first"
        return f"{self.precision}, {order}, {'compiled' if self.compile else 'eager'}"


@dataclass(frozen=True)
class StepTime:
    """What was measured of a candidate."""

    candidate: Candidate
    batch_size: int
    """Images of the step that was measured."""
    median_ms: float = math.nan
    quick_ms: float = math.nan
    """Lower quartile: other programs only ever add time, so this is what candidates are compared by."""
    spread_ms: float = math.nan
    """Distance of the quartiles."""
    repetitions: int = 0
    loss: float = math.nan
    """Of the first step; the network and the batch are the same for all candidates of a shape."""
    last_loss: float = math.nan
    on_busy_machine: bool = False
    """Measured on one thread, in CPU time: other programs held the cores. Only ratios are to be trusted."""
    peak_bytes: int | None = None
    """Most memory that tensors took, on CUDA."""
    failure: str | None = None
    """Why it could not be measured; the numbers are then NaN."""

    @property
    def images_per_second(self) -> float:
        """By the median."""
        return 1000 * self.batch_size / self.median_ms

    def is_right(self, reference: StepTime | None) -> bool:
        """Whether the losses are finite, and the first within 5 % of that of the reference (fp32)."""
        if self.failure or not (math.isfinite(self.loss) and math.isfinite(self.last_loss)):
            return False
        if reference is None or not math.isfinite(reference.loss):
            return True
        return abs(self.loss - reference.loss) <= LOSS_TOLERANCE * abs(reference.loss)

    def as_json(self) -> dict[str, Any]:
        """Plain types, for :meth:`from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> StepTime:
        """What :meth:`as_json` wrote.

        Raises:
            TypeError, KeyError, ValueError: it is something else.
        """
        candidate = Candidate(**values["candidate"])
        if candidate.precision not in ("32-true", "bf16-mixed", "16-mixed"):
            raise ValueError(f"precision {candidate.precision}")
        time = cls(**{**values, "candidate": candidate})
        if not all(isinstance(ms, int | float) for ms in (time.median_ms, time.quick_ms, time.spread_ms)):
            raise ValueError("a duration is not a number")
        return time
