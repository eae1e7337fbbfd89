from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import Tensor, nn
from torch._dynamo.utils import counters

from tests.support.small_network import write_small_yaml
from tests.support.tiny_data import annotation, image, write_coco
from yolo_lightning import DetectionDataModule, YOLOv5
from yolo_lightning.data.augment import AugmentationConfig
from yolo_lightning.data.batch import Batch
from yolo_lightning.errors import InputError
from yolo_lightning.model.heads import HEADS
from yolo_lightning.model.losses import AnchorFreeLossConfig, AnchorLossConfig, DetectionLoss, LossConfigs
from yolo_lightning.training.optimizer import OptimizerConfig
from yolo_lightning.training.step import training_losses


def data(root: Path, **options: Any) -> DetectionDataModule:
    return DetectionDataModule(
        root=str(root), **{"image_size": 64, "batch_size": 4, "num_workers": 0} | options
    )


def trainer(tmp_path: Path, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": tmp_path,
    }
    return Trainer(**defaults | options)


def test_network_is_a_plain_module_without_a_trainer() -> None:
    module = YOLOv5(architecture="yolov5n", num_classes=4, compile=False)
    module.configure_model()
    maps = module.network(torch.rand(1, 3, 64, 64))
    assert [tuple(m.shape) for m in maps] == [(1, 3, 8, 8, 9), (1, 3, 4, 4, 9), (1, 3, 2, 2, 9)]


def test_configure_model_runs_once() -> None:
    module = YOLOv5(num_classes=2, compile=False)
    module.configure_model()
    network = module.network
    module.configure_model()
    assert module.network is network


def test_classes_default_to_80_and_follow_the_data(tmp_path: Path, shapes: Path) -> None:
    alone = YOLOv5(compile=False)
    alone.configure_model()
    assert alone.num_classes == 80
    module = YOLOv5(compile=False)
    trainer(tmp_path).validate(module, data(shapes), verbose=False)
    assert module.num_classes == 5
    assert module.class_names == list(data(shapes).class_names)
    assert module.category_ids == [1, 2, 3, 4, 5]


def test_another_number_of_classes_is_refused(tmp_path: Path, shapes: Path) -> None:
    with pytest.raises(InputError, match="num_classes is 3 but the data has 5"):
        trainer(tmp_path).fit(YOLOv5(num_classes=3, compile=False), data(shapes))


class OwnData(LightningDataModule):
    """A data module of a user's own, which tells nothing but the size of its images."""

    image_size = 64

    def __init__(self, loader: Any) -> None:
        super().__init__()
        self.loader = loader

    def train_dataloader(self) -> Any:
        return self.loader


def test_a_data_module_of_ones_own_needs_little(tmp_path: Path, shapes: Path) -> None:
    lender = data(shapes)
    lender.prepare("fit")
    module = YOLOv5(num_classes=5, compile=False)
    trainer(tmp_path, limit_val_batches=0).fit(module, OwnData(lender.train_dataloader()))
    assert torch.isfinite(module.running_losses["box"])


def test_an_image_size_between_cells_is_refused(tmp_path: Path, shapes: Path) -> None:
    with pytest.raises(InputError, match=r"yolov5n6: data\.image_size 96 is not a multiple of 64; use 128"):
        trainer(tmp_path).fit(YOLOv5("yolov5n6", compile=False), data(shapes, image_size=96))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("architecture", ["yolov5n", "yolov5nu", "yolov5n6"])
def test_every_head_trains_in_every_precision(
    tmp_path: Path, shapes: Path, architecture: str, precision: str
) -> None:
    module = YOLOv5(architecture, compile=False)
    runner = trainer(tmp_path, precision=precision)
    runner.fit(module, data(shapes))
    logged = runner.callback_metrics
    parts = ("box", "cls", "dfl") if architecture.endswith("u") else ("box", "obj", "cls")
    names = [f"{stage}/{part}_loss" for stage in ("train", "val") for part in parts] + [
        "val/map",
        "val/map_50",
    ]
    assert all(torch.isfinite(logged[name]) for name in names)
    assert all(torch.isfinite(p).all() for p in module.network.parameters())


class MeanColour(nn.Module):
    """A head that scores each class by one convolution and calls every cell a box."""

    def __init__(self, num_classes: int, channels: Sequence[int], strides: Sequence[int], _: Any) -> None:
        super().__init__()
        self.num_classes, self.strides = num_classes, tuple(strides)
        self.layers = nn.ModuleList(nn.Conv2d(c, num_classes, 1) for c in channels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [layer(feature) for layer, feature in zip(self.layers, features, strict=True)]

    def build_loss(self, configs: LossConfigs) -> DetectionLoss:
        return ScoreLoss()

    def decode(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        scores = torch.cat([raw.flatten(2).transpose(1, 2) for raw in maps], dim=1).sigmoid()
        return torch.tensor([0.0, 0.0, 32.0, 32.0]).expand(*scores.shape[:2], 4), scores


class ScoreLoss(DetectionLoss):
    """Drives all scores to the number of labels, which has to be counted over all batches of a step."""

    parts = ("score",)

    def forward(
        self, maps: Sequence[Tensor], targets: Tensor, mask: Tensor, divisor: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        labels = mask.float().sum() + 1 if divisor is None else divisor
        loss = sum((raw.square().mean() for raw in maps), torch.zeros(())) / labels
        return loss, {"score": loss.detach()}

    def joint_divisor(self, batches: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        return torch.stack([mask.float().sum() for _, _, mask in batches]).mean() + 1

    def describe_gains(self, image_size_px: int) -> str:
        return "no gains"


def test_a_new_head_trains_by_its_name_in_the_yaml(
    tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(HEADS, "MeanColour", MeanColour)
    config = OptimizerConfig(nominal_batch_size=8, warmup_epochs=0, joint_loss=True)
    module = YOLOv5(write_small_yaml(tmp_path, False, "MeanColour"), compile=False, optimizer=config)
    runner = trainer(tmp_path)
    runner.fit(module, data(shapes))
    assert all(torch.isfinite(runner.callback_metrics[f"{stage}/score_loss"]) for stage in ("train", "val"))
    assert "val/map" in runner.callback_metrics


def test_a_window_cut_by_the_end_of_an_epoch_goes_on_in_the_next(tmp_path: Path, shapes: Path) -> None:
    # 10 images in batches of 4 are 3 batches an epoch; with 4 batches a step, 9 batches make 2 steps.
    config = OptimizerConfig(nominal_batch_size=16, warmup_epochs=0)
    module = YOLOv5(compile=False, optimizer=config)
    runner = trainer(tmp_path, max_epochs=3, limit_val_batches=0)
    runner.fit(module, data(shapes))
    assert runner.global_step == 2
    assert module.accumulator.pending == 1


def test_a_step_with_a_joint_loss_ends_with_the_epoch(tmp_path: Path, shapes: Path) -> None:
    """3 batches an epoch, 2 a step: one step of two and one of one."""
    config = OptimizerConfig(nominal_batch_size=8, warmup_epochs=0, joint_loss=True)
    module = YOLOv5(compile=False, optimizer=config)
    runner = trainer(tmp_path, max_epochs=3, limit_val_batches=0)
    runner.fit(module, data(shapes))
    assert runner.global_step == 6
    assert module.accumulator.pending == 0 and module.waiting == []


class RecordingNorms(YOLOv5):
    """Notes the norm of the gradient that the optimizer gets."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        super().on_before_optimizer_step(optimizer)
        grads = [p.grad for p in self.network.parameters() if p.grad is not None]
        self.norms = [*getattr(self, "norms", []), float(torch.nn.utils.get_total_norm(grads))]


@pytest.mark.parametrize("limit", [0.5, 0.0])
def test_gradients_are_clipped(tmp_path: Path, shapes: Path, limit: float) -> None:
    config = OptimizerConfig(nominal_batch_size=4, gradient_clip_norm=limit)
    module = RecordingNorms(compile=False, optimizer=config)
    trainer(tmp_path, limit_val_batches=0).fit(module, data(shapes))
    assert len(module.norms) == 3
    assert (max(module.norms) <= 0.5 * 1.001) == (limit == 0.5)


def test_learning_rates_of_the_last_batch_are_logged(tmp_path: Path, shapes: Path) -> None:
    runner = trainer(tmp_path, limit_val_batches=0)
    runner.fit(YOLOv5(compile=False), data(shapes))
    # Batch 2 of a warm-up of 100 batches.
    assert float(runner.callback_metrics["lr/weight"]) == pytest.approx(0.01 * 2 / 100)
    assert float(runner.callback_metrics["lr/bias"]) == pytest.approx(0.1 + (0.01 - 0.1) * 2 / 100)


@pytest.fixture
def quick_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace as in earnest, but leave out the minutes of code generation."""
    real: Callable[..., Any] = torch.compile
    monkeypatch.setattr(torch, "compile", partial(real, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()


class LabelCounts(Callback):
    """Notes how many labels the batches of the newest epoch and of the newest validation have."""

    def on_train_epoch_start(self, *_: Any) -> None:
        self.trained: list[int] = []

    def on_validation_epoch_start(self, *_: Any) -> None:
        self.validated: list[int] = []

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Batch, *_: Any) -> None:
        self.trained.append(int(batch.count.sum()))

    def on_validation_batch_start(self, trainer: Trainer, module: Any, batch: Batch, *_: Any) -> None:
        self.validated.append(int(batch.count.sum()))


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("anchors", [True, False], ids=["anchors", "anchor-free"])
def test_one_graph_for_each_part_and_no_recompile(
    tmp_path: Path, anchors: bool, joint: bool, quick_backend: None
) -> None:
    """Three epochs with validations, closing the mosaic on the way: the probe, and losses.

    Batches of two pictures have none, one and as many labels as there is room for, in changing order.
    """
    from yolo_lightning.training.compilation import compiler_obstacle

    compiler_obstacle.cache_clear()
    counts = [0, 0, 16, 16, 0, 1, 0, 7]
    for split in ("train", "val"):
        images = [image(i, f"{i}.png") for i in range(len(counts))]
        labels = [(i, k) for i, count in enumerate(counts) for k in range(count)]
        boxes = [annotation(n, i, 1 + k % 2, [k, k, 20 + k, 15 + k % 5]) for n, (i, k) in enumerate(labels)]
        document = {"images": images, "annotations": boxes,
                    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}  # fmt: skip
        write_coco(tmp_path / "data", document, split)
    module = YOLOv5(
        write_small_yaml(tmp_path, anchors),
        compile="default",
        augmentation=AugmentationConfig(close_mosaic=1),
        optimizer=OptimizerConfig(joint_loss=joint, warmup_epochs=0, nominal_batch_size=6),
    )
    labels_of = LabelCounts()
    with torch._dynamo.config.patch(error_on_recompile=True):
        runner = trainer(tmp_path, max_epochs=3, callbacks=[labels_of])
        runner.fit(module, data(tmp_path / "data", batch_size=2))
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 2
    assert labels_of.validated == [0, 32, 1, 7]
    assert 0 in labels_of.trained and max(labels_of.trained) >= 16  # without mosaic the loss sees the same
    compiler_obstacle.cache_clear()


def test_compiling_leaves_the_names_in_checkpoints(tmp_path: Path, quick_backend: None) -> None:
    module = YOLOv5(num_classes=2, compile="default")
    module.configure_model()
    plain = YOLOv5(num_classes=2, compile=False)
    plain.configure_model()
    assert module.state_dict().keys() == plain.state_dict().keys()
    assert all(name.startswith("network.model.") for name in module.state_dict())


def test_checkpoint_holds_plain_types_and_loads(tmp_path: Path, shapes: Path) -> None:
    config = OptimizerConfig(learning_rate=0.005)
    module = YOLOv5(compile=False, optimizer=config)
    runner = trainer(tmp_path, limit_val_batches=0)
    runner.fit(module, data(shapes))
    runner.save_checkpoint(tmp_path / "own.ckpt")
    torch.load(tmp_path / "own.ckpt", weights_only=True)  # raises on anything but plain types
    loaded = YOLOv5.load_from_checkpoint(tmp_path / "own.ckpt", compile=False)
    assert loaded.optimizer_config == config
    assert (loaded.num_classes, loaded.class_names) == (5, module.class_names)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)


def test_no_planned_number_of_epochs_is_refused(tmp_path: Path, shapes: Path) -> None:
    with pytest.raises(InputError, match="max_epochs is not set"):
        trainer(tmp_path, max_epochs=-1, max_steps=2).fit(YOLOv5(compile=False), data(shapes))


def test_nothing_is_compiled_without_a_mode() -> None:
    module = YOLOv5(num_classes=2, compile=False)
    module.configure_model()
    assert module._training_losses is training_losses


@pytest.mark.parametrize("anchors", [True, False])
def test_classes_are_weighted_by_the_labels_to_train_on(tmp_path: Path, shapes: Path, anchors: bool) -> None:
    module = YOLOv5(
        write_small_yaml(tmp_path, anchors),
        compile=False,
        loss=AnchorLossConfig(class_weight_power=1.0),
        anchor_free_loss=AnchorFreeLossConfig(class_weight_power=1.0),
    )
    source = data(shapes)
    trainer(tmp_path, limit_train_batches=1, limit_val_batches=0).fit(module, source)
    index = source.index("train")
    counts = [
        sum(int(label) == c for i in range(len(index)) for label in index.labels(i)[:, 0]) for c in range(5)
    ]
    assert source.class_counts == counts and min(counts) > 0
    inverse = torch.tensor([1 / count for count in counts])
    assert module.criterion.class_weights is not None
    torch.testing.assert_close(module.criterion.class_weights, inverse / inverse.mean())
    assert not any("class_weights" in name for name in module.state_dict())


def test_own_data_without_counts_of_its_classes(tmp_path: Path, shapes: Path) -> None:
    lender = data(shapes)
    lender.setup("fit")
    module = YOLOv5(num_classes=5, compile=False, loss=AnchorLossConfig(class_weight_power=1.0))
    with pytest.raises(InputError, match="no class_counts"):
        trainer(tmp_path, limit_val_batches=0).fit(module, OwnData(lender.train_dataloader()))
