"""Against official weights and real data, where they are at hand beside the repository."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolo_lightning import DetectionDataModule
from yolo_lightning.__main__ import main
from yolo_lightning.data.annotations.source import Split
from yolo_lightning.data.augment import normalise
from yolo_lightning.evaluation.detect import detect
from yolo_lightning.model.blocks import MODEL_FILES
from yolo_lightning.training.module import YOLOv5

SHARED = Path(__file__).parents[3] / "shared"
WEIGHTS = SHARED / "weights" / "yolov5n.pt"
PHOTOS = MODEL_FILES.parents[2] / "assets"

pytestmark = pytest.mark.skipif(not WEIGHTS.is_file(), reason="the official weights are not at hand")


def test_official_weights_find_what_the_classic_code_finds(tmp_path: Path) -> None:
    main([
        "predict", f"--model.weights={WEIGHTS}", f"--data.predict_source={PHOTOS}", "--data.num_workers=0",
        "--model.score_threshold=0.25", f"--runs_dir={tmp_path}", "--trainer.accelerator=cpu",
    ])  # fmt: skip
    results = json.loads((tmp_path / "predict/version_0/predictions.json").read_text())
    found = {
        name: Counter(r["name"] for r in results if r["file_name"] == name)
        for name in ("bus.jpg", "zidane.jpg")
    }
    assert found == {"bus.jpg": {"person": 4, "bus": 1}, "zidane.jpg": {"person": 2, "tie": 1}}
    bus = next(r for r in results if r["name"] == "bus")
    assert bus["category_id"] == 6  # COCO's, of 91
    # What the classic code reports for the bus, in px of the photo.
    assert bus["bbox"] == pytest.approx([27.5, 230.8, 777.8, 542.4], abs=3)


def test_every_official_tensor_is_loaded() -> None:
    module = YOLOv5(weights=str(WEIGHTS), compile=False)
    module.configure_model()
    assert module.num_classes == 80
    assert module.class_names is not None and module.class_names[5] == "bus"
    # A forward pass of untrained weights would be near the prior of the head everywhere.
    with torch.no_grad():
        maps = module.network.eval()(torch.full((1, 3, 64, 64), 114 / 255))
    assert max(float(m[..., 4].sigmoid().max()) for m in maps) < 0.05


BCCD = SHARED / "data" / "bccd"


@pytest.mark.skipif(not BCCD.is_dir(), reason="BCCD is not at hand")
def test_our_metric_and_pycocotools_agree_on_detections_of_blood_cells(tmp_path: Path) -> None:
    """One epoch from official weights, then the same detections go both ways."""
    module = YOLOv5(weights=str(WEIGHTS), compile=False)
    data = DetectionDataModule(root=str(BCCD), image_size=320, batch_size=16, num_workers=0)
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, data)
    results = []
    for batch in data.val_dataloader():
        with torch.no_grad():
            rows, counts = detect(module.network.head, module.network.eval()(normalise(batch.images)), batch)
        for image_id, table, count in zip(batch.image_ids.tolist(), rows, counts.tolist(), strict=True):
            for x1, y1, x2, y2, score, label in table[:count].double().tolist():
                category = int(data.category_ids[int(label)])
                box = [x1, y1, x2 - x1, y2 - y1]
                results.append({"image_id": image_id, "category_id": category, "bbox": box, "score": score})
    truth = COCO(str(BCCD / "annotations" / "instances_val.json"))
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    names = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
    ours = [float(trainer.callback_metrics[f"val/{name}"]) for name in names]
    assert ours == pytest.approx(evaluation.stats[:6].tolist(), abs=1e-4)
    assert ours[0] > 0.05


@pytest.mark.skipif(not BCCD.is_dir(), reason="BCCD is not at hand")
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_both_readings_of_blood_cells_give_one_index(split: Split) -> None:
    coco, yolo = (DetectionDataModule(root=str(root)).index(split) for root in (BCCD, BCCD / "data.yaml"))
    assert [coco.path(i) for i in range(len(coco))] == [yolo.path(i) for i in range(len(yolo))]
    for name in ("image_ids", "sizes", "offsets", "classes", "crowd", "trainable", "category_ids"):
        np.testing.assert_array_equal(getattr(coco, name), getattr(yolo, name), err_msg=name)
    np.testing.assert_allclose(coco.boxes, yolo.boxes, atol=1e-3)  # YOLO's text has six decimals
    assert coco.class_names == yolo.class_names
