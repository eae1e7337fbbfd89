import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from yolo_lightning import DetectionDataModule, YOLOv5
from yolo_lightning.data.augment import normalise
from yolo_lightning.monitoring import features
from yolo_lightning.monitoring.tensorboard.pictures import FeatureMapPictures
from yolo_lightning.system.background import BackgroundQueue
from yolo_lightning.training.ema import ExponentialMovingAverage
from yolo_lightning.training.optimizer import OptimizerConfig

ONE_BATCH = {"limit_train_batches": 1, "limit_val_batches": 1}


class Drain(Callback):
    """Waits for what was submitted, as a run does before its writer is closed."""

    def __init__(self, queue: BackgroundQueue) -> None:
        self.queue = queue

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.queue.drain()


def fit(tmp_path: Path, shapes: Path, *callbacks: Callback, epochs: int = 2, **limits: Any) -> YOLOv5:
    """A tiny run whose gradients wait over the validation: 3 batches an epoch, 2 batches a step."""
    seed_everything(0)
    module = YOLOv5(compile=False, optimizer=OptimizerConfig(nominal_batch_size=8, warmup_epochs=0))
    runner = Trainer(
        accelerator="cpu", devices=1, max_epochs=epochs, precision="32-true",
        callbacks=list(callbacks), num_sanity_val_steps=1,
        logger=TensorBoardLogger(tmp_path, name="", version=""), log_every_n_steps=1,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tmp_path, use_distributed_sampler=False, **limits,
    )  # fmt: skip
    data = DetectionDataModule(root=str(shapes), image_size=64, batch_size=4, num_workers=0)
    runner.fit(module, data)
    return module


def digest(module: YOLOv5) -> str:
    values = [*module.network.state_dict().values()]
    values += [p.grad for p in module.network.parameters() if p.grad is not None]
    values.append(torch.get_rng_state())
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in values)).hexdigest()


def images(folder: Path) -> dict[str, list[int]]:
    """Steps of the images in an event file, by tag."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}


def test_training_is_the_same_to_the_bit(tmp_path: Path, shapes: Path) -> None:
    queue = BackgroundQueue()
    plain = fit(tmp_path / "plain", shapes, ExponentialMovingAverage(), epochs=3)
    ours = FeatureMapPictures(1, queue), Drain(queue)
    shown = fit(tmp_path / "shown", shapes, ExponentialMovingAverage(), *ours, epochs=3)
    assert (queue.failed, queue.dropped) == (0, 0)
    assert plain.accumulator.pending  # gradients waited over the last validation
    assert digest(shown) == digest(plain)
    tags = {f"features/{name}" for name in ("layer_17", "layer_20", "layer_23", "attention")}
    steps = images(tmp_path / "shown")
    assert steps.keys() == tags
    assert all(at == [2, 5, 8] for at in steps.values())  # where Lightning logs; nothing of the check before


class Seen(Callback):
    """The feature maps by the weights of each validation, computed where it happens."""

    def __init__(self) -> None:
        self.pictures: list[np.ndarray] = []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if not trainer.sanity_checking and not self.pictures:
            hook = pl_module.network.model[17].register_forward_hook(self._keep)
            pl_module.network(normalise(batch.images[:1]))
            hook.remove()

    def _keep(self, _module: Any, _inputs: Any, output: torch.Tensor) -> None:
        self.pictures.append(features.draw_grid(output[0].numpy()))


def test_the_weights_are_those_that_are_validated(
    tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[str, np.ndarray]] = []
    log = "yolo_lightning.monitoring.tensorboard.pictures.log_picture"
    monkeypatch.setattr(log, lambda writer, tag, picture, step: drawn.append((tag, picture)))
    queue, seen = BackgroundQueue(), Seen()
    average = ExponentialMovingAverage(decay=0.5, ramp_updates=0.1)  # far from the live weights
    fit(tmp_path, shapes, average, FeatureMapPictures(5, queue), seen, Drain(queue), epochs=1)
    assert [tag for tag, _ in drawn] == [*(f"features/layer_{n}" for n in (17, 20, 23)), "features/attention"]
    assert np.array_equal(drawn[0][1], seen.pictures[0])


def test_epochs_between_two_sets(tmp_path: Path, shapes: Path) -> None:
    queue = BackgroundQueue()
    fit(tmp_path, shapes, FeatureMapPictures(2, queue), Drain(queue), epochs=4, **ONE_BATCH)
    assert images(tmp_path)["features/layer_20"] == [0, 2]


def test_an_error_is_one_warning_and_training_goes_on(
    tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(features, "feature_maps", fail)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, shapes, FeatureMapPictures(1, BackgroundQueue()), **ONE_BATCH)
    told = [str(warning.message) for warning in caught if "feature maps" in str(warning.message)]
    assert told == [
        "feature maps cannot be drawn: RuntimeError: out of memory; training continues without them"
    ]
