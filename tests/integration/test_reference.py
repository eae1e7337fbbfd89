"""Against official weights and real data, where they are at hand beside the repository."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from yolo_lightning.__main__ import main
from yolo_lightning.model.blocks import MODEL_FILES
from yolo_lightning.module import YOLOv5

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
