"""Trainings whose batches have several shapes: which ones the network sees, and when it compiles."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch._dynamo.utils import counters

from tests.support.small_network import write_small_yaml
from tests.support.stopped_runs import options
from tests.support.tiny_data import write_image, write_yolo
from tests.training.test_module import data, trainer
from yolo_lightning import YOLOv5
from yolo_lightning.__main__ import main
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


def write_rectangles(root: Path) -> Path:
    """Four training images of 60 x 30 px and three of 40 x 60, with a label each."""
    label = "0 0.5 0.5 0.4 0.4\n"
    write_yolo(root, {f"{i}": label for i in range(7)})
    for i in range(4):
        write_image(root / "images/train" / f"{i}.png", 60, 30, seed=i)
    write_yolo(root, {"a": label}, split="val")
    return root


@pytest.mark.usefixtures("traced")
def test_rect_trains_on_rectangles_without_mosaics_and_compiles_each_once(tmp_path: Path) -> None:
    root = write_rectangles(tmp_path / "data")
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


class Graphs(Callback):
    """Notes how many graphs there are at the end of each epoch, after its validation."""

    seen: ClassVar[list[int]] = []

    def on_train_epoch_end(self, *_: Any) -> None:
        self.seen.append(counters["stats"]["unique_graphs"])


@pytest.mark.long  # Inductor compiles C++ for minutes
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("option", "graphs"),  # one for each size of the images
    [("--model.augmentation.multi_scale=0.5", 3), ("--data.rect=true", 2), ("--model.freeze=4", 1)],
)
def test_fit_compiles_nothing_after_the_first_epoch(
    option: str, graphs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert compilation.compiler_obstacle("cpu") is None  # compiles a probe, once in a process
    torch._dynamo.reset()
    counters.clear()
    Graphs.seen.clear()
    root = write_rectangles(tmp_path / "data")
    more = [option, "--model.compile=true", "--model.architecture", write_small_yaml(tmp_path, True)]
    main(["fit", *options(root, *more, f"--trainer.callbacks={__name__}.Graphs")])
    assert Graphs.seen == [graphs] * 3 and not counters["graph_break"]


def test_rect_and_multi_scale_together_are_refused(tmp_path: Path, shapes: Path) -> None:
    module = YOLOv5(compile=False, augmentation=AugmentationConfig(multi_scale=0.5))
    with pytest.raises(InputError, match=r"multi_scale and data\.rect"):
        trainer(tmp_path).fit(module, data(shapes, rect=True))
