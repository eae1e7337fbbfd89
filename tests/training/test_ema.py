import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from yolo_lightning.training.ema import ExponentialMovingAverage, ema_decay


class Tiny(LightningModule):
    """One weight that grows by one a step, a batch norm, and a note of what validation saw."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
        nn.init.zeros_(self.network[0].weight)
        self.seen: list[float] = []
        self.fail_in_validation = False

    @property
    def weight(self) -> float:
        return float(self.network[0].weight.detach())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.network[0].parameters(), lr=1.0)

    def training_step(self, batch: Tensor, batch_index: int) -> None:
        optimizer = self.optimizers()
        self.network[0].weight.grad = torch.full((1, 1), -1.0)
        if batch_index % 2:  # a step every second batch
            optimizer.step()

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        self.seen.append(self.weight)
        if self.fail_in_validation:
            raise RuntimeError("stop here")


def loader(batches: int) -> DataLoader[Any]:
    return DataLoader(torch.zeros(batches * 2, 1), batch_size=2)


def trainer(tmp_path: Path, *callbacks: Any, epochs: int = 1) -> Trainer:
    return Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path, callbacks=list(callbacks), enable_checkpointing=any(
            isinstance(c, ModelCheckpoint) for c in callbacks
        ), num_sanity_val_steps=0,
    )  # fmt: skip


def expected_average(steps: int, decay: float, ramp: float) -> float:
    """The average after each of ``steps`` steps of a weight that is 1, 2, 3, ..., by the definition."""
    average = 0.0
    for n in range(1, steps + 1):
        d = decay * (1 - math.exp(-n / ramp))
        average = d * average + (1 - d) * n
    return average


def test_ramp() -> None:
    assert ema_decay(0) == 0
    assert ema_decay(2000) == pytest.approx(0.9999 * (1 - 1 / math.e))
    assert ema_decay(100_000) == pytest.approx(0.9999)


def test_validation_sees_the_average_and_training_goes_on_from_the_live_weights(tmp_path: Path) -> None:
    module, ema = Tiny(), ExponentialMovingAverage(decay=0.9, ramp_updates=5)
    trainer(tmp_path, ema, epochs=2).fit(module, loader(6), loader(1))
    assert module.weight == 6
    assert ema.updates == 6  # optimizer steps, not batches
    assert module.seen == pytest.approx([expected_average(3, 0.9, 5), expected_average(6, 0.9, 5)])


def test_off(tmp_path: Path) -> None:
    module = Tiny()
    trainer(tmp_path, ExponentialMovingAverage(decay=0)).fit(module, loader(4), loader(1))
    assert module.seen == [2.0]


@pytest.mark.parametrize("moment", ["validation", "epoch_end"])
def test_checkpoint_holds_both_at_any_moment(tmp_path: Path, moment: str) -> None:
    class SaveDuringValidation(ModelCheckpoint):
        def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "validation.ckpt")

    saver = SaveDuringValidation(dirpath=tmp_path, filename="epoch_end", save_on_train_epoch_end=True)
    trainer(tmp_path, ExponentialMovingAverage(0.9, 5), saver).fit(Tiny(), loader(6), loader(1))
    checkpoint = torch.load(tmp_path / f"{moment}.ckpt", weights_only=True)
    assert checkpoint["state_dict"]["network.0.weight"].item() == pytest.approx(expected_average(3, 0.9, 5))
    assert checkpoint["live_state_dict"]["network.0.weight"].item() == 3.0


def test_an_error_in_validation_leaves_the_live_weights(tmp_path: Path) -> None:
    module = Tiny()
    module.fail_in_validation = True
    with pytest.raises(RuntimeError, match="stop here"):
        trainer(tmp_path, ExponentialMovingAverage(0.9, 5)).fit(module, loader(6), loader(1))
    assert module.weight == 3.0


def test_resume_goes_on_with_average_count_and_live_weights(tmp_path: Path) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path, filename="last", save_on_train_epoch_end=True)
    trainer(tmp_path, ExponentialMovingAverage(0.9, 5), saver).fit(Tiny(), loader(6), loader(1))
    resumed, ema = Tiny(), ExponentialMovingAverage(0.9, 5)
    trainer(tmp_path, ema, epochs=2).fit(resumed, loader(6), loader(1), ckpt_path=tmp_path / "last.ckpt")
    assert resumed.weight == 6.0
    assert ema.updates == 6
    assert resumed.seen == pytest.approx([expected_average(6, 0.9, 5)])


def test_evaluation_alone_uses_the_averaged_weights_of_the_checkpoint(tmp_path: Path) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path, filename="last", save_on_train_epoch_end=True)
    trainer(tmp_path, ExponentialMovingAverage(0.9, 5), saver).fit(Tiny(), loader(6), loader(1))
    module = Tiny()
    trainer(tmp_path).validate(module, loader(1), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    assert module.seen == pytest.approx([expected_average(3, 0.9, 5)])
