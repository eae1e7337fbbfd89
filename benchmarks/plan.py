"""What a run of the benchmarks was asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
CORES = 2
"""Cores that each contender is bound to."""


@dataclass(frozen=True)
class Plan:
    """Options of a run."""

    work: Path
    """Cache folder: data, environments of peers, runs and logs."""
    rounds: int | None = None
    """Rounds of each benchmark; None leaves it to the benchmark."""
    toy: bool = False
    """Everything tiny: shows that the code runs, measures nothing."""
    bccd: Path | None = None
    """The BCCD data set, COCO or YOLO layout with a ``data.yaml``; None skips what needs it."""
    weights: Path | None = None
    """The official ``yolov5n.pt``; None skips what needs it."""
    peer_environments: dict[str, Path] = field(default_factory=dict)
    """Existing environments of peers, by the peer's name; the others are made under ``work``."""
    fit_epochs: int = 30
    """Epochs of the whole fit of ``fit_wall``."""
    contenders: tuple[str, ...] | None = None
    """Names to run; None runs all."""

    @property
    def data(self) -> Path:
        return self.work / ("toy_data" if self.toy else "data")

    def rounds_of(self, default: int) -> int:
        """Rounds to run of a benchmark with this default number."""
        return self.rounds or (1 if self.toy else default)
