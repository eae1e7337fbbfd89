"""The batch that fits into a memory."""

from __future__ import annotations

from ...data.image_size import describe
from ...errors import InputError
from .step import Job, StepPlan, trace_step

CONTEXT_GB = 0.6
"""Memory of a card that CUDA itself takes, beside torch's allocator; 0.3 to 0.6 GB by card and driver."""
MARGIN = 0.92
"""Share of the rest that is planned with: fragments and other libraries need the remainder."""
CPU_MARGIN = 0.95
"""The same of a CPU's memory, which has no fragments of CUDA; oneDNN's copies take up to 3 % more."""
_FIRST = 8, 64  # batches through which the line of the memory is drawn; the second is often suggested
_MOST = 2**14


def room(memory_gb: float) -> float:
    """Bytes of a card that a training may plan with."""
    return (memory_gb - CONTEXT_GB) * MARGIN * 1e9


class Planner:
    """Step plans of one training by batch size, each traced once."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._plans: dict[int, StepPlan] = {}

    def plan(self, batch_size: int) -> StepPlan:
        """The plan of a batch size, 1 or more.

        Raises:
            InputError: the tensors would be larger than numbers can say.
        """
        if batch_size not in self._plans:
            try:
                self._plans[batch_size] = trace_step(self.job, batch_size)
            except RuntimeError as error:
                if "overflow" not in str(error):
                    raise
                images = f"{batch_size} images of {describe(self.job.image_size)}"
                raise InputError(f"{images} are more than any memory holds; give fewer or smaller") from error
        return self._plans[batch_size]

    def largest_batch(self, room_bytes: float, most: int = _MOST) -> int:
        """Most images, up to ``most``, whose step takes at most ``room_bytes``; 0 if one is too much.

        Memory grows nearly as a straight line with the batch; the guess is checked and corrected.
        """
        if most < _MOST and self.plan(most).peak <= room_bytes:
            return most
        few, more = (self.plan(size).peak for size in _FIRST)
        slope = (more - few) / (_FIRST[1] - _FIRST[0])
        guess = min(most, max(1, int(_FIRST[0] + (room_bytes - few) / slope)))
        while guess and self.plan(guess).peak > room_bytes:
            guess = max(0, guess - max(1, int((self.plan(guess).peak - room_bytes) / slope)))
        return max(
            (size for size, plan in self._plans.items() if size <= most and plan.peak <= room_bytes),
            default=0,
        )


def suggested_batch(largest: int, nominal: int) -> int:
    """A multiple of 8, or ``nominal``: more than the images of an optimizer step gains little; 0 for 0."""
    return min(largest - largest % 8 or largest, nominal)
