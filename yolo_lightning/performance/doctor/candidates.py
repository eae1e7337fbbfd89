"""The ways to compute a training step, and what was measured of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...data.augment import AugmentationConfig
from ...training.precision import Precision, has_native_bf16

TIE = 0.03
"""Candidates within this part of the fastest count as equally fast."""
FP16_ADVANTAGE = 0.10
"""By which part fp16, with its narrow range, must be faster than bf16 to be preferred."""
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
        """Plain types."""
        return asdict(self)


def select(times: Sequence[StepTime], device_type: str) -> StepTime | None:
    """The fastest candidate whose loss is right; of those as fast as it, the least risky.

    On CUDA fp16 has to be 10 % faster than bf16. Eager goes before compiled, which costs time at the
    start; then, on a CPU, fp32 before bf16, and on CUDA, for the memory, the reverse.

    Args:
        times: what was measured.
        device_type: ``cpu`` or ``cuda``.

    Returns:
        None if none could be measured.
    """
    reference = _reference(times)
    right = [time for time in times if time.is_right(reference)]
    if device_type == "cuda":
        half = min((t.quick_ms for t in right if t.candidate.precision == "16-mixed"), default=math.inf)
        brain = min((t.quick_ms for t in right if t.candidate.precision == "bf16-mixed"), default=math.inf)
        if brain <= (1 + FP16_ADVANTAGE) * half and math.isfinite(brain):
            right = [time for time in right if time.candidate.precision != "16-mixed"]
    if not right:
        return None
    fastest = min(time.quick_ms for time in right)
    order = (
        ["bf16-mixed", "16-mixed", "32-true"]
        if device_type == "cuda"
        else ["32-true", "bf16-mixed", "16-mixed"]
    )

    def risk(time: StepTime) -> tuple[bool, int, float]:
        return time.candidate.compile, order.index(time.candidate.precision), time.quick_ms

    return min((time for time in right if time.quick_ms <= (1 + TIE) * fastest), key=risk)


def eager_candidates(device: str) -> list[Candidate]:
    """The eager candidates that are worth measuring on a device; fp32 is always among them."""
    precisions: list[Precision] = ["32-true"]
    if has_native_bf16(device):
        precisions.append("bf16-mixed")
    if device.startswith("cuda"):
        precisions.append("16-mixed")
    return [Candidate(p, order, False) for p, order in itertools.product(precisions, (False, True))]


def _reference(times: Sequence[StepTime]) -> StepTime | None:
    full = [
        t for t in times if t.candidate.precision == "32-true" and not t.candidate.compile and not t.failure
    ]
    return full[0] if full else None
