from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
from torch import Tensor
from torch.utils.data import DataLoader

from yolo_lightning.evaluation.bootstrap import estimate_map
from yolo_lightning.evaluation.image_matches import MATCHES, ImageMatches
from yolo_lightning.evaluation.mean_average_precision import CocoMeanAveragePrecision
from yolo_lightning.monitoring.tensorboard.curves import EVALUATION, EvaluationCurves
from yolo_lightning.system.background import BackgroundQueue
from yolo_lightning.training.contracts import TrainsDetections

NAMES = ["cat", "dog", "never there"]
BOXES = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 90, 90], [0, 60, 30, 90]])
LABELS = torch.tensor([0.0, 0, 1, 1])
SCORES = torch.tensor([0.9, 0.6, 0.7, 0.3])


class Evaluated(LightningModule, TrainsDetections):
    """Finds in each epoch as many of the four objects as it is told, and the others of a wrong class."""

    def __init__(self, found: list[int]) -> None:
        super().__init__()
        self.found = found
        self.layer = torch.nn.Linear(1, 1)
        self.metric = CocoMeanAveragePrecision(3)

    @property
    def label_names(self) -> list[str]:
        return NAMES

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        return self.layer(batch).sum()

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        right = torch.arange(4) < self.found[self.current_epoch]
        label = torch.where(right, LABELS, torch.full((4,), 2.0))
        detections = torch.cat((BOXES, SCORES[:, None], label[:, None]), dim=1)
        area, crowd = (BOXES[:, 2] - BOXES[:, 0]) ** 2, torch.zeros(4)
        truth = torch.cat((LABELS[:, None], BOXES, area[:, None], crowd[:, None]), dim=1)
        four = torch.tensor([4])
        self.metric.update(torch.tensor([batch_index]), detections[None], four, truth[None], four)

    def on_validation_epoch_end(self) -> None:
        self.log("val/map", self.metric.compute()["map"])
        self.metric.reset()


def fit(
    folder: Path, found: list[int], queue: BackgroundQueue | None = None, **options: Any
) -> tuple[Trainer, EvaluationCurves]:
    queue = queue or BackgroundQueue()
    curves = EvaluationCurves(folder, queue)
    ckpt_path = options.pop("ckpt_path", None)
    callbacks = [curves, *options.pop("callbacks", [])]
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=len(found), logger=TensorBoardLogger(folder, "", ""),
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        callbacks=callbacks, **options,
    )  # fmt: skip
    loader = DataLoader(torch.zeros(4, 1), batch_size=2)  # type: ignore[arg-type]
    trainer.fit(Evaluated(found), loader, loader, ckpt_path=ckpt_path)
    queue.drain()
    trainer.loggers[0].experiment.flush()  # type: ignore[attr-defined]
    return trainer, curves


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"tensors": 0, "images": 0, "scalars": 0}).Reload()


def evaluation(folder: Path) -> dict[str, Any]:
    return json.loads((folder / EVALUATION).read_text())


def test_pr_curves_hold_exact_counts_at_the_step_of_the_scalars(tmp_path: Path) -> None:
    fit(tmp_path, [4, 2])
    found = events(tmp_path)
    tags = {tag for tag in found.Tags()["tensors"] if tag.startswith("pr/")}
    assert tags == {"pr/all classes together", "pr/cat", "pr/dog"}
    assert found.SummaryMetadata("pr/cat").plugin_data.plugin_name == "pr_curves"
    steps = [event.step for event in found.Scalars("val/map")]
    assert [event.step for event in found.Tensors("pr/dog")] == steps
    assert steps == [1, 3]  # as Lightning counts
    first, second = (make_ndarray(event.tensor_proto) for event in found.Tensors("pr/dog"))
    # Two images with a dog of 0.7 and one of 0.3; in the second epoch none is found.
    thresholds = np.linspace(0, 1, 101).astype(np.float32)
    tp = 2 * (thresholds <= np.float32(0.7)) + 2 * (thresholds <= np.float32(0.3))
    zero = np.zeros(101)
    np.testing.assert_array_equal(first[:4], [tp, zero, zero, 4 - tp])
    np.testing.assert_array_equal(first[4:], [np.ones(101), tp / np.float32(4)])
    np.testing.assert_array_equal(second[:4], [zero, zero, zero, zero + 4])
    together = make_ndarray(found.Tensors("pr/all classes together")[1].tensor_proto)
    assert together[:4, 0].tolist() == [4, 4, 0, 4]  # and the wrong ones of the class that is never there
    assert together[:4, -1].tolist() == [0, 0, 4, 8]


def test_the_file_is_that_of_the_best_epoch(tmp_path: Path) -> None:
    fit(tmp_path, [1, 4, 2, 4])
    written = evaluation(tmp_path)
    assert written["epoch"] == 1  # the first of equals
    assert written["class_names"] == NAMES
    assert np.array(written["confusion"]).tolist() == [[4, 0, 0, 0], [0, 4, 0, 0], [0] * 4, [0] * 4]
    assert written["ap"] == [pytest.approx(1, abs=1e-4), pytest.approx(1, abs=1e-4), None]
    matches = ImageMatches.from_bytes((tmp_path / MATCHES).read_bytes())
    mean = events(tmp_path).Scalars("val/map")[1].value
    assert np.float32(estimate_map(matches, resamples=1).value) == np.float32(mean)


def test_a_resumed_run_remembers_its_best(tmp_path: Path) -> None:
    trainer, _ = fit(tmp_path, [3, 1])
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    fit(tmp_path, [3, 1, 2], ckpt_path=tmp_path / "two.ckpt")
    assert evaluation(tmp_path)["epoch"] == 0
    fit(tmp_path, [3, 1, 2, 4], ckpt_path=tmp_path / "two.ckpt")
    assert evaluation(tmp_path)["epoch"] == 3
    elsewhere = tmp_path / "elsewhere"
    fit(elsewhere, [3, 1, 2], ckpt_path=tmp_path / "two.ckpt")
    assert evaluation(elsewhere)["epoch"] == 2


def test_of_several_validations_in_an_epoch_the_last_one_is_judged(tmp_path: Path) -> None:
    module_epochs = [2, 3]
    fit(tmp_path, module_epochs, val_check_interval=0.5)
    assert evaluation(tmp_path)["epoch"] == 1
    assert [event.step for event in events(tmp_path).Tensors("pr/cat")] == [0, 1, 2, 3]


def test_an_epoch_without_a_validation_is_not_judged(tmp_path: Path) -> None:
    _, curves = fit(tmp_path, [1, 2, 4], check_val_every_n_epoch=2)
    assert evaluation(tmp_path)["epoch"] == 1
    assert curves.state_dict()["best"] == pytest.approx(0.5, abs=0.01)


def test_plots_are_of_the_first_and_the_last_validation_when_epochs_are_short(tmp_path: Path) -> None:
    fit(tmp_path, [1, 2, 3, 4])
    found = events(tmp_path)
    for name in ("precision_recall", "f1", "confusion"):
        images = found.Images(f"curves/{name}")
        assert [image.step for image in images] == [1, 7]
        assert images[0].encoded_image_string != images[1].encoded_image_string
        assert min(images[0].width, images[0].height) > 300


class Immediate(BackgroundQueue):
    """Runs what is submitted at once."""

    def submit(self, function: Any, *args: Any, **kwargs: Any) -> bool:
        function(*args, **kwargs)
        return True


def test_plots_are_of_each_validation_when_drawing_takes_a_small_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yolo_lightning.monitoring.tensorboard.curves._SHARE", 1e9)
    drawn: list[int] = []
    monkeypatch.setattr(
        "yolo_lightning.monitoring.tensorboard.curves.write_plots", lambda *given: drawn.append(given[-1])
    )
    fit(tmp_path, [1, 2, 3], Immediate())
    assert drawn == [1, 3, 5]


class Occupied(BackgroundQueue):
    """Runs nothing until it is drained, and has room for two tasks."""

    def __init__(self) -> None:
        super().__init__(most=2)
        self.gate = threading.Event()
        super().submit(self.gate.wait)
        while not self._tasks.empty():  # until its thread has taken it
            self.gate.wait(0.001)

    def drain(self) -> None:
        self.gate.set()
        super().drain()


def test_a_file_that_the_queue_had_no_room_for_is_written_at_the_end(tmp_path: Path) -> None:
    queue = Occupied()
    fit(tmp_path, [1, 3, 2], queue)
    assert queue.dropped > 0
    assert evaluation(tmp_path)["epoch"] == 1
    assert events(tmp_path).Images("curves/f1")[-1].step == 5


def test_the_sanity_check_and_modules_without_details_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = BackgroundQueue()
    fit(tmp_path, [4], queue, num_sanity_val_steps=1, limit_val_batches=1, check_val_every_n_epoch=5)
    monkeypatch.setattr(CocoMeanAveragePrecision, "details", property(lambda _: None, lambda *_: None))
    fit(tmp_path, [4], queue)
    assert not (tmp_path / EVALUATION).exists()
    assert not [tag for tag in events(tmp_path).Tags()["tensors"] if tag.startswith("pr/")]


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda _: False))
    fit(tmp_path, [4])
    assert not (tmp_path / EVALUATION).exists()


def test_without_tensorboard_the_file_is_written_all_the_same(tmp_path: Path) -> None:
    queue = BackgroundQueue()
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, callbacks=[EvaluationCurves(tmp_path, queue)],
    )  # fmt: skip
    loader = DataLoader(torch.zeros(4, 1), batch_size=2)  # type: ignore[arg-type]
    trainer.fit(Evaluated([2]), loader, loader)
    queue.drain()
    assert evaluation(tmp_path)["epoch"] == 0


def test_an_error_in_drawing_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no ink")

    monkeypatch.setattr("yolo_lightning.monitoring.tensorboard.curves.write_plots", fail)
    with pytest.warns(UserWarning, match="no ink; training continues"):
        fit(tmp_path, [1, 2])
    assert evaluation(tmp_path)["epoch"] == 1
