"""Trainings whose batches have several shapes: which ones the network sees, and when it compiles."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch._dynamo.utils import counters

from tests.support.small_network import write_small_yaml
from tests.support.tiny_data import write_image, write_yolo
from tests.training.test_module import data, trainer
from yolo_lightning import YOLOv5
from yolo_lightning.data.augment import Augmentation, AugmentationConfig
from yolo_lightning.errors import InputError
from yolo_lightning.training import compilation
from yolo_lightning.training.optimizer import OptimizerConfig


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace the network and its loss as in earnest, and generate no code; leave the augmentation eager."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(Augmentation, "compile_core", lambda self: None)
    monkeypatch.setattr(compilation, "compiler_obstacle", lambda device_type: None)
    torch._dynamo.reset()
    counters.clear()


class InputShapes(Callback):
    """Notes the height and width of each training batch, and forbids to compile after the first epoch."""

    def __init__(self) -> None:
        self.of_epoch: list[list[tuple[int, int]]] = []
        self.most_labels = 0

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        torch._dynamo.config.error_on_recompile = bool(self.of_epoch)
        self.of_epoch.append([])
        module.on_augmented = self._note

    def _note(self, images: Tensor, targets: Tensor, mask: Tensor) -> None:
        self.of_epoch[-1].append((images.shape[2], images.shape[3]))
        self.most_labels = max(self.most_labels, int(targets[mask, 0].long().bincount(minlength=1).max()))

    def on_train_end(self, *_: Any) -> None:
        torch._dynamo.config.error_on_recompile = False


@pytest.mark.usefixtures("traced")
def test_multi_scale_trains_on_its_sizes_and_compiles_each_once(tmp_path: Path, shapes: Path) -> None:
    module = YOLOv5(
        write_small_yaml(tmp_path, True),
        compile="default",
        augmentation=AugmentationConfig(multi_scale=0.5),
        optimizer=OptimizerConfig(warmup_epochs=0, nominal_batch_size=4),
    )
    shapes_seen = InputShapes()
    runner = trainer(tmp_path, max_epochs=2, callbacks=[shapes_seen])
    runner.fit(module, data(shapes, image_size=64, batch_size=2))
    sizes = [32, 64, 96]
    assert shapes_seen.most_labels > 1
    for epoch in shapes_seen.of_epoch:
        assert sorted(epoch[:3]) == [(size, size) for size in sizes] and len(epoch) == 5
    assert shapes_seen.of_epoch[0] != shapes_seen.of_epoch[1]
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == len(sizes)


@pytest.mark.usefixtures("traced")
def test_rect_trains_on_rectangles_without_mosaics_and_compiles_each_once(tmp_path: Path) -> None:
    label = "0 0.5 0.5 0.4 0.4\n"
    root = tmp_path / "data"
    write_yolo(root, {f"{i}": label for i in range(7)})  # of 40 x 60 px
    for i in range(4):
        write_image(root / "images/train" / f"{i}.png", 60, 30, seed=i)
    write_yolo(root, {"a": label}, split="val")
    module = YOLOv5(
        write_small_yaml(tmp_path, True),
        compile="default",
        augmentation=AugmentationConfig(translate=0, scale=0),
        optimizer=OptimizerConfig(warmup_epochs=0, nominal_batch_size=4),
    )
    shapes_seen = InputShapes()
    runner = trainer(tmp_path, max_epochs=2, callbacks=[shapes_seen])
    runner.fit(module, data(root, image_size=96, batch_size=2, rect=True))
    for epoch in shapes_seen.of_epoch:
        assert sorted(epoch[:-1]) == [(64, 96), (96, 64), (96, 64)]
    assert shapes_seen.most_labels == 1  # a mosaic would have those of several images
    assert counters["stats"]["unique_graphs"] == len({shape for e in shapes_seen.of_epoch for shape in e})


def test_rect_and_multi_scale_together_are_refused(tmp_path: Path, shapes: Path) -> None:
    module = YOLOv5(compile=False, augmentation=AugmentationConfig(multi_scale=0.5))
    with pytest.raises(InputError, match=r"multi_scale and data\.rect"):
        trainer(tmp_path).fit(module, data(shapes, rect=True))
