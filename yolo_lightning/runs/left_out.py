"""The list of images that a run leaves out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import distributed

from ..data.annotations.findings import Finding
from ..system.files import write_whole
from .record import as_csv

LEFT_OUT = "left_out.csv"


class LeftOutList(Callback):
    """Writes ``left_out.csv``: file and place, what is wrong, the remedy, and the image that is left out.

    It is written at the start, after each epoch, and when an error ends the run, if there is an image; what
    other processes found is added at the end of an epoch.

    Args:
        directory: The run directory.
    """

    def __init__(self, directory: str | Path) -> None:
        self.path = Path(directory) / LEFT_OUT
        self._findings: set[Finding] = set()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._add(trainer, [_left_out(trainer)])

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = [_left_out(trainer)]
        if trainer.world_size > 1:
            found *= trainer.world_size
            distributed.all_gather_object(found, _left_out(trainer))
        self._add(trainer, found)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._add(trainer, [_left_out(trainer)])

    def _add(self, trainer: Trainer, found: Iterable[Iterable[Finding]]) -> None:
        new = {finding for findings in found for finding in findings} - self._findings
        if new and trainer.is_global_zero:
            self._findings |= new
            rows = [finding._asdict() for finding in sorted(self._findings)]
            write_whole(self.path, as_csv(("where", "what", "remedy", "image"), rows))


def _left_out(trainer: Trainer) -> list[Finding]:
    data = trainer.datamodule  # type: ignore[attr-defined]
    return list(getattr(data, "left_out", ()))
