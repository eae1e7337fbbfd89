from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from tests.support import label_tables
from tests.support.small_network import write_small_yaml
from yolo_lightning import DetectionDataModule, YOLOv5
from yolo_lightning.training.micro_batches import join, more_parts, split
from yolo_lightning.training.optimizer import OptimizerConfig
from yolo_lightning.training.step import Prepared, training_losses

ERRORS = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
}


def test_parts_are_equal_and_get_more_until_each_is_one_image() -> None:
    found: list[int | None] = [1]
    while found[-1]:
        found.append(more_parts(12, found[-1]))
    assert found == [1, 2, 4, 12, None]
    assert [more_parts(7, 1), more_parts(7, 7), more_parts(9, 1)] == [7, None, 3]


def test_a_batch_is_split_in_order_and_its_losses_are_joined() -> None:
    tables = torch.rand(6, 4, 5), torch.rand(6, 4) < 0.5
    batch = Prepared(torch.rand(6, 3, 8, 8), *label_tables.join(*tables))
    parts = split([batch, batch], 3)
    assert [len(part.images) for part in parts] == [2] * 6
    assert torch.equal(torch.cat([part.images for part in parts[3:]]), batch.images)
    labels = [table for part in parts[3:] for table in label_tables.split(part.targets, part.mask, 2)]
    for found, expected in zip(labels, label_tables.split(batch.targets, batch.mask, 6), strict=True):
        assert torch.equal(found, expected)
    losses = join([{"box": torch.tensor(float(value))} for value in (1, 2, 6, 4, 4, 4)], 3)
    assert [one["box"].item() for one in losses] == pytest.approx([3, 4])


class Small(YOLOv5):
    """Raises for more images at once than there is memory for, in the epochs that are told."""

    most, error, since = 1000, ERRORS["cuda"], 0

    def _compile(self) -> None:
        super()._compile()
        self.sizes: list[int] = []

        def losses(network: Any, criterion: Any, images: Tensor, *rest: Any) -> Any:
            found = training_losses(network, criterion, images, *rest)
            if len(images) > self.most and self.current_epoch >= self.since:
                found[0].backward()  # some gradients are there when memory runs out
                raise self.error
            self.sizes.append(len(images))
            return found

        self._training_losses = losses


def fit(tmp_path: Path, root: Path, epochs: int = 1, resume: str | None = None, **known: Any) -> Small:
    module = Small(
        write_small_yaml(tmp_path, True), compile=False, optimizer=OptimizerConfig(nominal_batch_size=8)
    )
    vars(module).update(known)
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, num_sanity_val_steps=0,
        enable_model_summary=False, limit_train_batches=2, limit_val_batches=0, default_root_dir=tmp_path,
        enable_checkpointing=False,
    )  # fmt: skip
    data = DetectionDataModule(str(root), image_size=64, batch_size=8, num_workers=0)
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    assert trainer.global_step == 2 * epochs
    return module


@pytest.mark.parametrize("kind", ERRORS)
def test_memory_that_runs_out_in_the_first_epoch_splits_the_batches(
    tmp_path: Path, shapes: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    caplog.set_level("INFO")
    module = fit(tmp_path, shapes, most=3, error=ERRORS[kind])
    assert module.sizes == [2] * 8
    said = "each batch of 8 images is trained in 4 parts of 2 from here on"
    assert said in caplog.text
    assert all(value.isfinite() for value in module.running_losses.values())
    caplog.clear()
    again = fit(tmp_path, shapes, epochs=2, resume=str(tmp_path / "end.ckpt"), most=3)
    assert again.sizes == [2] * 8 and said not in caplog.text


def test_memory_that_runs_out_later_or_for_one_image_ends_the_run(tmp_path: Path, shapes: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        fit(tmp_path, shapes, epochs=2, most=3, since=1)
    with pytest.raises(torch.OutOfMemoryError):
        fit(tmp_path, shapes, most=0)
