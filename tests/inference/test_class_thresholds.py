"""What a checkpoint says of its training: score thresholds of classes, and the image size."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.inference.test_evaluations import OPTIONS, moved_annotations
from yolo_lightning import Detections, Detector, YOLOv5
from yolo_lightning.__main__ import main
from yolo_lightning.errors import InputError
from yolo_lightning.runs.directory import with_run_config


@pytest.fixture(scope="module")
def checkpoint(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run whose validation finds moved annotations."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("yolo_lightning.training.module_evaluation.detect", moved_annotations)
        options = (f"--data.root={shapes}", f"--runs_dir={folder}", "--trainer.max_epochs=1", *OPTIONS)
        main(["fit", *options])
    return folder / "fit" / "version_0" / "checkpoints" / "best.ckpt"


@pytest.fixture
def eager(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint whose network finds objects of two classes, each above a threshold of its own."""
    contents = torch.load(checkpoint, weights_only=True)
    for name, value in contents["state_dict"].items():
        if ".m." in name and name.endswith("bias") and len(value) == 3 * 10:  # the last layers of the head
            value.view(3, 10)[:, 4:7] = 0.0  # objectness and two classes: 0.5 each
            value.view(3, 10)[:, 7:] = -9.0
    contents["hyper_parameters"]["score_thresholds"] = [0.22, 0.27, 0.5, 0.5, 0.5]
    torch.save(contents, tmp_path / "eager.ckpt")
    return tmp_path / "eager.ckpt"


def test_a_validation_keeps_the_best_confidence_of_each_class(checkpoint: Path) -> None:
    kept = torch.load(checkpoint, weights_only=True)["hyper_parameters"]["score_thresholds"]
    assert len(kept) == 5 and len(set(kept)) > 1 and all(0.001 <= value < 1 for value in kept)
    described = json.loads((checkpoint.parents[1] / "evaluation.json").read_text())
    for threshold, f1, truths in zip(kept, described["f1"], described["truths"], strict=True):
        padded = [f1[0]] * 10 + f1 + [f1[-1]] * 10  # smoothed over a tenth of the confidences
        smoothed = [sum(padded[i : i + 21]) / 21 for i in range(len(f1))]
        at = min(range(len(f1)), key=lambda i: abs(described["confidence"][i] - threshold))
        assert not truths or smoothed[at] >= max(smoothed) - 0.02


def test_auto_is_the_threshold_of_each_class(eager: Path, shapes: Path, tmp_path: Path) -> None:
    [images] = (shapes / "images").glob("val*")
    found, every = (
        {d.path: d for d in Detector(eager, score_threshold=score, iou_threshold=1.0, image_size=64)(images)}
        for score in ("auto", 0.2)
    )
    least = torch.tensor([0.22, 0.27, 0.5, 0.5, 0.5])
    labels = set()
    for path, all_of in every.items():
        kept = [s > least[label] for s, label in zip(all_of.scores, all_of.labels, strict=True)]
        assert found[path].scores.tolist() == all_of.scores[kept].tolist()
        assert found[path].labels.tolist() == all_of.labels[kept].tolist()
        labels |= {*found[path].labels.tolist()}
    assert labels and sum(len(d.scores) for d in found.values()) < sum(len(d.scores) for d in every.values())

    run = tmp_path / "runs"
    main([
        "predict", f"--ckpt_path={eager}", f"--data.predict_source={images}", f"--runs_dir={run}", *OPTIONS,
        "--model.score_threshold=auto", "--model.iou_threshold=1.0",
    ])  # fmt: skip
    predicted = json.loads((run / "predict" / "version_0" / "predictions.json").read_text())
    assert len(predicted) == sum(len(d.scores) for d in found.values())


@pytest.mark.parametrize("change", [{"score_thresholds": [0.5]}, {}])
def test_auto_without_thresholds_is_refused(change: dict[str, Any], checkpoint: Path, tmp_path: Path) -> None:
    contents = torch.load(checkpoint, weights_only=True)
    del contents["hyper_parameters"]["score_thresholds"]
    contents["hyper_parameters"] |= change
    torch.save(contents, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="score_threshold is auto, but the checkpoint has no thresholds"):
        Detector(tmp_path / "other.ckpt", score_threshold="auto")
    module = YOLOv5.load_from_checkpoint(tmp_path / "other.ckpt", score_threshold="auto", compile=False)
    with pytest.raises(InputError, match="score_threshold is auto"):
        _ = module.least_scores


def test_a_checkpoint_that_was_moved_tells_its_image_size(
    checkpoint: Path, shapes: Path, tmp_path: Path
) -> None:
    moved = shutil.copy(checkpoint, tmp_path / "mine.ckpt")
    assert with_run_config(["predict", "--ckpt_path", str(moved)])[1] == "--data.image_size=64"
    image = sorted((shapes / "images").glob("val*/*"))[0]
    found, wanted, other = (
        Detector(moved, score_threshold=0.0005, max_detections=3, **size)(image)
        for size in ({}, {"image_size": 64}, {"image_size": 640})
    )
    assert isinstance(found, Detections) and isinstance(wanted, Detections) and isinstance(other, Detections)
    assert found.table.tolist() == wanted.table.tolist() != other.table.tolist()
    contents = torch.load(moved, weights_only=True)
    contents["hyper_parameters"]["image_size"] = 10**9
    torch.save(contents, moved)
    with pytest.raises(InputError, match=r"mine\.ckpt: hyper_parameters\.image_size is 1000000000"):
        Detector(moved)
