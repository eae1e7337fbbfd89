"""Exported checkpoints in the programs that they are for, on real images.

``YOLOV5_PYTHON`` names the interpreter of an environment with ``yolov5==7.0.14 setuptools<81 numpy<2.3``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolo_lightning.__main__ import main
from yolo_lightning.data.augment import normalise
from yolo_lightning.data.loading.dataset import PredictionDataset, collate
from yolo_lightning.evaluation.detect import detect
from yolo_lightning.export.formats import ExportOptions, find_format, load_source
from yolo_lightning.inference.trained_model import load_network

SHARED = Path(__file__).parents[3] / "shared"
WEIGHTS, BCCD = SHARED / "weights" / "yolov5n.pt", SHARED / "data" / "bccd"
CLASSIC = os.environ.get("YOLOV5_PYTHON", "")
IMAGE_SIZE = 320
EPOCHS = {"yolov5n": 2, "yolov5nu": 3}

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not (WEIGHTS.is_file() and BCCD.is_dir()), reason="weights or data are not at hand"),
]
needs_yolov5 = pytest.mark.skipif(not CLASSIC, reason="YOLOV5_PYTHON names no environment with yolov5")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Checkpoint of a short training on BCCD, by architecture."""
    folder = tmp_path_factory.mktemp("runs")

    def train(architecture: str) -> Path:
        checkpoint = folder / architecture / "version_0" / "checkpoints" / "best.ckpt"
        if not checkpoint.exists():
            main([
                "fit", f"--model.architecture={architecture}", f"--model.weights={WEIGHTS}",
                f"--data.root={BCCD}", f"--data.image_size={IMAGE_SIZE}", "--data.num_workers=0",
                f"--trainer.max_epochs={EPOCHS[architecture]}", "--trainer.precision=32-true",
                "--trainer.accelerator=cpu", "--model.compile=false", f"--runs_dir={folder}",
                f"--run_name={architecture}",
            ])  # fmt: skip
        return checkpoint

    return train


@pytest.fixture(scope="module")
def data_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the validation split, because the programs write a cache beside the labels."""
    folder = tmp_path_factory.mktemp("bccd")
    for kind in ("images", "labels"):
        shutil.copytree(BCCD / kind / "val", folder / kind / "val")
    names = "names: {0: RBC, 1: WBC, 2: Platelets}"
    (folder / "data.yaml").write_text(f"path: {folder}\ntrain: images/val\nval: images/val\n{names}\n")
    return folder / "data.yaml"


def export(checkpoint: Path, name: str, folder: Path) -> Path:
    options = ExportOptions((IMAGE_SIZE, IMAGE_SIZE))
    path = find_format(name, options).path(folder, "best", options)
    find_format(name, options).write(load_source(checkpoint), path, options)
    return path


def run_classic(folder: Path, *arguments: object) -> None:
    """Run a file or module in the environment of yolov5, which fetches nothing."""
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    for name in ("Arial.ttf", "Arial.Unicode.ttf"):
        shutil.copyfile(fonts, folder / name)
    settings = {"YOLOV5_CONFIG_DIR": str(folder), "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [CLASSIC, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=kept | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def our_detections(checkpoint: Path, images: list[Path], score_threshold: float) -> list[torch.Tensor]:
    """Rows x1, y1, x2, y2 in px of each image, score, class; best first."""
    network, *_ = load_network(checkpoint)
    network.eval()
    found = []
    data = PredictionDataset(images, (IMAGE_SIZE, IMAGE_SIZE))
    for number in range(len(images)):
        batch = collate([data[number]])
        with torch.inference_mode():
            rows, counts = detect(
                network.head, network(normalise(batch.images)), batch,
                score_threshold=score_threshold, iou_threshold=0.45, multi_label=False,
            )  # fmt: skip
        found.append(rows[0, : int(counts[0])])
    return found


def assert_same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    assert len(ours) == 20 and sum(map(len, ours)) > 100
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine.shape == yours.shape
        assert torch.equal(mine[:, 5], yours[:, 5])
        torch.testing.assert_close(mine[:, :4], yours[:, :4], rtol=0, atol=1e-3)  # px
        torch.testing.assert_close(mine[:, 4], yours[:, 4], rtol=0, atol=1e-4)


def map_of(predictions: Path, first_class: int) -> float:
    """COCO mAP of a file of detections whose image ids are names."""
    truth = COCO(BCCD / "annotations" / "instances_val.json")
    ids = {Path(image["file_name"]).stem: image["id"] for image in truth.dataset["images"]}
    rows = json.loads(predictions.read_text())
    for row in rows:
        row["image_id"] = ids[row["image_id"]]
        row["category_id"] += 1 - first_class
    evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return float(evaluation.stats[0])


def our_map(checkpoint: Path) -> float:
    rows = (checkpoint.parents[1] / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("val/map")
    return max(float(row.split(",")[column]) for row in rows[1:])


def first_images() -> list[Path]:
    return sorted((BCCD / "images" / "val").iterdir())[:20]


@needs_yolov5
def test_yolov5_detects_and_validates_as_we_do(trained: Any, data_yaml: Path, tmp_path: Path) -> None:
    checkpoint = trained("yolov5n")
    path = export(checkpoint, "yolov5", tmp_path)
    program, images = Path(__file__).parents[1] / "support" / "yolov5_program.py", first_images()
    run_classic(tmp_path, program, path, IMAGE_SIZE, tmp_path / "found.json", *images)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["names"] == {"0": "RBC", "1": "WBC", "2": "Platelets"}
    theirs = [torch.tensor(found["detections"][str(image)]).reshape(-1, 6) for image in images]
    assert_same(our_detections(checkpoint, images, 0.25), theirs)
    run_classic(
        tmp_path, "-m", "yolov5.val", "--weights", path, "--data", data_yaml, "--img", IMAGE_SIZE,
        "--batch-size", 16, "--device", "cpu", "--workers", 0, "--save-json", "--project", tmp_path / "val",
    )  # fmt: skip
    (predictions,) = (tmp_path / "val").rglob("*predictions.json")
    assert map_of(predictions, first_class=0) == pytest.approx(our_map(checkpoint), abs=1e-3)


def test_ultralytics_detects_and_validates_as_we_do(trained: Any, data_yaml: Path, tmp_path: Path) -> None:
    checkpoint = trained("yolov5nu")
    path = export(checkpoint, "ultralytics", tmp_path)
    code = f"""
import json
from ultralytics import YOLO
model = YOLO({str(path)!r})
model.val(data={str(data_yaml)!r}, imgsz={IMAGE_SIZE}, batch=16, device="cpu", workers=0, conf=0.001, iou=0.6,
    rect=True, save_json=True, plots=False, project={str(tmp_path)!r}, name="val")
results = [model(path, imgsz={IMAGE_SIZE}, conf=0.05, iou=0.45, device="cpu")[0].boxes.data.tolist()
    for path in {list(map(str, first_images()))!r}]
json.dump(results, open("found.json", "w"))
"""
    settings = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | settings, check=True)
    found = json.loads((tmp_path / "found.json").read_text())
    theirs = [torch.tensor(rows).reshape(-1, 6) for rows in found]
    assert_same(our_detections(checkpoint, first_images(), 0.05), theirs)
    (predictions,) = (tmp_path / "val").rglob("predictions.json")
    assert map_of(predictions, first_class=1) == pytest.approx(our_map(checkpoint), abs=1e-3)
