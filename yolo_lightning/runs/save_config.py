"""The configuration of a run, saved in its directory."""

from __future__ import annotations

from pathlib import Path

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from ..system.files import write_whole
from .directory import CONFIG

NOT_KEPT = {"config", "ckpt_path", "weights_only", "verbose", "return_predictions"}
"""Options that belong to one start, not to the run."""


class SaveConfig(SaveConfigCallback):
    """Writes the options that really ran, so that ``--config RUN/config.yaml`` runs them again."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            self._write(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer)  # not earlier: a resumption that fails must leave the old one

    def _write(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            config = self.config.clone()
            for name in NOT_KEPT & vars(config).keys():
                del config[name]
            text = self.parser.dump(config, skip_none=False, skip_validation=True)
            if not text.isascii():  # jsonargparse reads it in the encoding of whatever locale there is then
                text = yaml.safe_dump(yaml.safe_load(text), sort_keys=False)
            write_whole(Path(trainer.default_root_dir, CONFIG), text)
