"""Options to what a run would be made of, without the run."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningCLI

from .launcher import YoloCLI


class DryCLI(YoloCLI):
    """Builds what ``fit`` would build, checks it as ``fit`` would, and runs and writes nothing."""

    precision: str | None = None
    """As it was asked for; None leaves it to be measured."""

    def _claim_directory(self, config: Any) -> str:
        return str(config.runs_dir)

    def _choose(self, config: Any) -> None:
        self.precision = config.trainer.precision

    def instantiate_classes(self) -> None:
        LightningCLI.instantiate_classes(self)
        self.datamodule.build_indices("fit")

    def _callbacks(self, keep_checkpoints: bool) -> list[Callback]:
        return []

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing."""
