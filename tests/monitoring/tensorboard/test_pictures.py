from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.data import DataLoader

from yolo_lightning import DetectionDataModule, YOLOv5
from yolo_lightning.data.batch import Batch, pack_labels
from yolo_lightning.monitoring.loggers import log_picture
from yolo_lightning.monitoring.tensorboard import pictures
from yolo_lightning.monitoring.tensorboard.pictures import Pictures
from yolo_lightning.system.background import BackgroundQueue
from yolo_lightning.training.contracts import TrainsDetections


@pytest.fixture(autouse=True)
def drawing_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs here are so short that no set but the first and the last would be due."""
    monkeypatch.setattr(pictures, "_SHARE", 1e9)


def batch(first: int, images: int = 2) -> Batch:
    """Images of 32 x 48 px in rectangles of 64 x 64, with one object each; image k is of colour k."""
    index = torch.arange(first, first + images)
    pixels = index.to(torch.uint8).view(-1, 1, 1, 1).expand(images, 3, 64, 64).clone()
    truth = torch.tensor([1.0, 10, 8, 40, 24, 480, 0]).expand(images, 4, 7).clone()
    return Batch(
        images=pixels,
        targets=torch.tensor([1.0, 18, 24, 48, 40]).expand(images, 16, 5).clone(),
        count=torch.ones(images, dtype=torch.int64),
        index=index,
        image_ids=index + 100,
        original_sizes=torch.tensor([32, 48]).expand(images, 2),
        letterbox=torch.tensor([1.0, 1, 8, 16]).expand(images, 4),
        truth=truth,
        truth_count=torch.ones(images, dtype=torch.int64),
    )


BATCHES = [batch(0), batch(2), batch(4, 1), batch(5), batch(7)]


class Detector(LightningModule, TrainsDetections):
    """Learns nothing; finds each object, and in image k one of the other class with a score of k / 10."""

    def __init__(self, class_names: list[str] | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.names = class_names or ["0", "1"]
        self.on_augmented: Callable[[Tensor, Tensor, Tensor], None] | None = None
        self.seen: list[Tensor] = []

    @property
    def label_names(self) -> list[str]:
        return self.names

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        images = (batch.images.float() + self.current_epoch + 0.3) / 255
        if self.on_augmented:
            self.seen.append(images.clone())
            self.on_augmented(images, *pack_labels(batch.targets, batch.count, 64))
            images.zero_()
        return self.layer.weight.sum()

    def validation_step(self, batch: Batch, batch_index: int) -> dict[str, Tensor]:
        found = torch.zeros(len(batch.images), 9, 6)
        found[:, 0] = torch.tensor([10.0, 8, 40, 24, 0.95, 1])
        found[:, 1] = torch.tensor([10.0, 8, 40, 24, 0.0, 0])
        found[:, 1, 4] = batch.index / 10
        self.log("val/map", float(self.current_epoch))
        return {"detections": found, "counts": torch.full((len(found),), 2)}


def trainer(root: Path, *callbacks: Any, logger: Any = False, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu", devices=1, logger=logger, default_root_dir=root, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[*callbacks],
        **{"num_sanity_val_steps": 0, "max_epochs": 1, "log_every_n_steps": 1} | options,
    )  # fmt: skip


def loader() -> Any:
    return DataLoader(BATCHES, batch_size=None)  # type: ignore[arg-type]


def fit(root: Path, callback: Pictures, module: LightningModule | None = None, **options: Any) -> None:
    trainer(root, callback, **options).fit(module or Detector(), loader(), loader())
    assert callback.queue.failed == callback.queue.dropped == 0


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What each panel was asked to draw, in place of drawing it."""
    asked: dict[str, list[Any]] = {}
    canvas = np.zeros((8, 8, 3), np.uint8)
    for name in ("draw_augmented", "draw_predictions", "draw_worst", "draw_label_statistics"):
        calls: list[Any] = asked.setdefault(name.removeprefix("draw_"), [])
        monkeypatch.setattr(pictures, name, lambda *args, calls=calls: calls.append(args) or canvas)
    return asked


def images_logged(folder: Path) -> dict[str, list[tuple[int, np.ndarray]]]:
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()
    decoded: dict[str, list[tuple[int, np.ndarray]]] = {}
    for tag in events.Tags()["images"]:
        for event in events.Images(tag):
            image = cv2.imdecode(np.frombuffer(event.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
            assert image.shape == (event.height, event.width, 3)
            decoded.setdefault(tag, []).append((event.step, image))
    return decoded


def test_a_run_is_shown_in_tensorboard_and_in_files(tmp_path: Path, shapes: Path) -> None:
    callback = Pictures(tmp_path, count=3)
    runner = trainer(
        tmp_path, callback, max_epochs=2, logger=TensorBoardLogger(tmp_path, name="", version="")
    )
    data = DetectionDataModule(str(shapes), image_size=64, batch_size=4, num_workers=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*picture.*")
        runner.fit(YOLOv5(compile=False), data)
    logged = images_logged(tmp_path)
    scalars = EventAccumulator(str(tmp_path)).Reload().Scalars("val/map")
    steps = {tag: [step for step, _ in entries] for tag, entries in logged.items()}
    assert steps == {
        "pictures/labels": [0],
        "pictures/augmented": [0, 3],  # 3 batches an epoch
        "pictures/predictions": [event.step for event in scalars],
        "pictures/worst": [event.step for event in scalars],
    }
    files = {file.stem: file for file in (tmp_path / "pictures").iterdir()}
    assert {file.name for file in files.values()} == {
        "labels.png",
        "augmented.jpg",
        "predictions.jpg",
        "worst.jpg",
    }
    for tag, entries in logged.items():
        newest = cv2.imread(str(files[tag.split("/")[1]]))
        assert (newest == entries[-1][1]).all()
    colours = [len(np.unique(entries[-1][1].reshape(-1, 3), axis=0)) for entries in logged.values()]
    assert min(colours) > 50


def test_the_same_validation_images_each_epoch_from_all_batches(
    tmp_path: Path, drawn: dict[str, list[Any]]
) -> None:
    fit(tmp_path, Pictures(tmp_path, count=4), max_epochs=3)
    named = [captions for _, captions, _ in drawn["predictions"]]
    assert named == [["image 100", "image 102", "image 104", "image 105"]] * 3
    shown, _, names = drawn["predictions"][0]
    assert [int(view.image[0, 0, 0]) for _, view in shown] == [0, 2, 4, 5]
    assert {view.image.shape for _, view in shown} == {(32, 48, 3)}
    # Image k has a detection of score k / 10 that is wrong; those below 0.25 are not looked at.
    assert [len(image.detections) for image, _ in shown] == [1, 1, 2, 2]
    assert {image.truth.shape for image, _ in shown} == {(1, 7)}
    assert names == ["0", "1"]


def test_the_first_validation_and_the_last_are_drawn_where_drawing_is_not_due(
    tmp_path: Path, drawn: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Drawn(Pictures):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            super().on_train_epoch_end(trainer, pl_module)
            self.queue.drain()  # what drawing takes is known only when it is over

    monkeypatch.setattr(pictures, "_SHARE", 1e-9)
    fit(tmp_path, Drawn(tmp_path, count=4), max_epochs=7, check_val_every_n_epoch=2)
    assert len(drawn["predictions"]) == 2  # of those after epochs 2, 4 and 6


def test_more_images_are_asked_for_than_there_are(tmp_path: Path, drawn: dict[str, list[Any]]) -> None:
    fit(tmp_path, Pictures(tmp_path, count=50))
    assert len(drawn["predictions"][0][1]) == 9
    assert len(drawn["augmented"][0][0]) == 2  # of the first batch


def test_the_worst_of_the_whole_validation(tmp_path: Path, drawn: dict[str, list[Any]]) -> None:
    fit(tmp_path, Pictures(tmp_path, count=3), Detector(["cell", "platelet"]))
    mistakes, captions, names = drawn["worst"][0]
    assert captions == ["image 108", "image 107", "image 106"]
    assert [round(float(m.image.detections[m.row, 4]), 2) for m in mistakes] == [0.8, 0.7, 0.6]
    assert [int(m.view.image[0, 0, 0]) for m in mistakes] == [8, 7, 6]
    assert names == ["cell", "platelet"]


def test_mistakes_that_are_no_longer_made_are_taken_away(tmp_path: Path) -> None:
    class Learning(Detector):
        def validation_step(self, batch: Batch, batch_index: int) -> dict[str, Tensor]:
            found = super().validation_step(batch, batch_index)
            return found if self.current_epoch == 0 else {**found, "counts": found["counts"] - 1}

    fit(tmp_path, Pictures(tmp_path), Learning())
    worst = tmp_path / "pictures" / "worst.jpg"
    assert worst.is_file()
    fit(tmp_path, Pictures(tmp_path), Learning(), max_epochs=2)
    assert not worst.exists() and worst.with_name("predictions.jpg").is_file()


def test_what_the_network_sees_is_what_is_drawn(tmp_path: Path, drawn: dict[str, list[Any]]) -> None:
    module = Detector()
    fit(tmp_path, Pictures(tmp_path, count=1), module, max_epochs=2)
    assert len(module.seen) == 2  # the first batch of each epoch
    for epoch, (images, labels, _) in enumerate(drawn["augmented"]):
        assert images.shape == (1, 64, 64, 3)
        assert (images == epoch).all()  # rounded, and no longer the memory of the batch
        assert labels[labels[:, 0] == 0].tolist() == [[0, 1, 18, 24, 48, 40]]


@pytest.mark.parametrize(
    ("every", "options", "augmented", "validated"),
    [
        (1, {"max_epochs": 3}, 3, [0, 1, 2]),
        (2, {"max_epochs": 5}, 3, [0, 2, 4]),
        (2, {"max_epochs": 6, "check_val_every_n_epoch": 2}, 3, [1, 3, 5]),
        (3, {"max_epochs": 6, "check_val_every_n_epoch": 2}, 2, [1, 5]),
        (1, {"max_epochs": 2, "val_check_interval": 2}, 2, [0, 1, 1]),
        (1, {"max_epochs": 1, "limit_val_batches": 0}, 1, []),
        (1, {"max_epochs": 0, "num_sanity_val_steps": 2}, 0, []),
    ],
)
def test_epochs_between_pictures(
    tmp_path: Path,
    drawn: dict[str, list[Any]],
    every: int,
    options: dict[str, Any],
    augmented: int,
    validated: list[int],
) -> None:
    epochs: list[int] = []

    class Noting(Pictures):
        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if self._worst is not None:
                epochs.append(trainer.current_epoch)
            super().on_validation_end(trainer, pl_module)

    fit(tmp_path, Noting(tmp_path, every=every), **options)
    assert len(drawn["augmented"]) == augmented
    assert len(drawn["predictions"]) == len(drawn["worst"]) == len(validated)
    assert epochs == validated


def test_sanity_checks_and_other_stages_draw_nothing(tmp_path: Path, drawn: dict[str, list[Any]]) -> None:
    callback = Pictures(tmp_path)
    fit(tmp_path, callback, num_sanity_val_steps=2)
    assert len(drawn["predictions"]) == 1
    trainer(tmp_path, callback).validate(Detector(), loader(), verbose=False)
    callback.queue.drain()
    assert len(drawn["predictions"]) == 1
    assert drawn["label_statistics"] == []  # there is no index


def test_an_error_ends_the_pictures_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("out of paint")

    monkeypatch.setattr(pictures, "split_batch", fail)
    callback = Pictures(tmp_path)
    runner = trainer(tmp_path, callback, max_epochs=3)
    with pytest.warns(UserWarning, match="out of paint; training continues") as caught:
        runner.fit(Detector(), loader(), loader())
    assert sum("out of paint" in str(warning.message) for warning in caught) == 1
    assert (runner.current_epoch, callback.is_broken) == (3, True)


def test_a_folder_that_cannot_be_written_is_told_and_training_goes_on(tmp_path: Path) -> None:
    (tmp_path / "pictures").write_text("a file is where the folder should be")
    callback = Pictures(tmp_path)
    logger = TensorBoardLogger(tmp_path / "log", name="", version="")
    runner = trainer(tmp_path, callback, max_epochs=2, logger=logger)
    with pytest.warns(UserWarning, match="training continues"):
        runner.fit(Detector(), loader(), loader())
    assert runner.current_epoch == 2
    assert callback.queue.failed == 6
    assert len(images_logged(tmp_path / "log")["pictures/worst"]) == 2  # TensorBoard has them nevertheless


def test_a_full_queue_holds_nobody(tmp_path: Path) -> None:
    class Full(BackgroundQueue):
        def submit(self, *_: Any, **__: Any) -> bool:
            return False

    fit(tmp_path, Pictures(tmp_path, queue=Full()))
    assert not (tmp_path / "pictures").exists()


def test_other_ranks_do_nothing(tmp_path: Path) -> None:
    callback, other = Pictures(tmp_path), SimpleNamespace(is_global_zero=False)
    module = SimpleNamespace(on_augmented=None)
    callback.on_train_start(other, module)  # type: ignore[arg-type]
    callback.on_train_epoch_start(other, module)  # type: ignore[arg-type]
    callback.on_validation_start(other, module)  # type: ignore[arg-type]
    callback.on_validation_batch_end(other, module, {}, BATCHES[0], 0)  # type: ignore[arg-type]
    callback.on_validation_end(other, module)  # type: ignore[arg-type]
    callback.on_train_epoch_end(other, module)  # type: ignore[arg-type]
    callback.queue.drain()
    assert (callback.is_broken, module.on_augmented, [*tmp_path.iterdir()]) == (False, None, [])


def test_a_writer_that_was_closed_stays_closed(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, "", "")
    logger.experiment.close()
    before = sorted(tmp_path.iterdir())
    log_picture([logger], "late", np.zeros((1, 1, 3), np.uint8), 0)
    assert sorted(tmp_path.iterdir()) == before
