"""The measuring room: what a training step costs here in each of its forms, and what its data costs.

``choose`` decides precision, memory order and compilation by what measures fastest, once for each
machine and shape of a step.
"""

from __future__ import annotations

from .candidates import Candidate, StepShape, StepTime
from .choice import Choice, choose

__all__ = ["Candidate", "Choice", "StepShape", "StepTime", "choose"]
