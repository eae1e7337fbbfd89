"""Exports of every size and head against their source, on photographs.

``--junitxml FILE`` records the largest differences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.export.test_written_models import NAMES, written
from yolo_lightning.evaluation.detect import non_max_suppression
from yolo_lightning.export.formats import ExportOptions, ExportSource, load_source
from yolo_lightning.inference.runtimes import open_model
from yolo_lightning.inference.trained_model import ModelFacts, TorchModel
from yolo_lightning.model.blocks import MODEL_FILES
from yolo_lightning.model.network import build_network

OFFICIAL = Path(__file__).parents[3] / "shared" / "weights" / "yolov5n.pt"
SIZES = ("n", "s", "m", "l", "x", "n6")
FIXED = ExportOptions((128, 192), batch_size=2)
DYNAMIC = replace(FIXED, dynamic=True)
SUPPRESSING = {"nms": True, "max_detections": 100}


def photographs(height: int, width: int) -> Tensor:
    """The two that ship with ultralytics, float32 (2, 3, height, width) in 0..1."""
    assets = MODEL_FILES.parents[2] / "assets"
    images = [cv2.imread(str(assets / name)) for name in ("bus.jpg", "zidane.jpg")]
    small = [cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in images]
    return torch.from_numpy(np.stack(small)).flip(-1).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def source(request: pytest.FixtureRequest) -> ExportSource:
    """The official network, or one whose scores depend on the image and spread over 0..1."""
    name: str = request.param
    if name == "official":
        return load_source(OFFICIAL) if OFFICIAL.is_file() else pytest.skip("no official weights")
    torch.manual_seed(0)
    network = build_network(name, len(NAMES)).requires_grad_(False)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the statistics are those of the photographs
            module.eps = 0.05  # as large channels hardly vary, and would amplify rounding to 0.2 px
    network.train()(torch.cat((photographs(256, 256), photographs(256, 256).flip(3))))
    for convolution in network.model[-1].modules():
        if isinstance(convolution, torch.nn.Conv2d) and convolution.bias is not None:
            convolution.bias.copy_(torch.randn_like(convolution.bias))
    return ExportSource(network.eval(), ModelFacts(NAMES, None, (640, 640), network.stride), name)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("onnx", FIXED),
        ("onnx", DYNAMIC),
        ("onnx", replace(FIXED, **SUPPRESSING)),
        ("onnx", replace(DYNAMIC, **SUPPRESSING)),
        ("torchscript", FIXED),
        ("torch-export", FIXED),
        ("openvino", FIXED),
        ("aoti", FIXED),
    ],
    ids=["onnx", "onnx-dynamic", "onnx-nms", "onnx-nms-dynamic", "torchscript", "pt2", "openvino", "aoti"],
)
@pytest.mark.parametrize(
    "source", ["official", *(f"yolov5{n}" for n in SIZES), *(f"yolov5{n}u" for n in SIZES)], indirect=True
)
def test_every_size_equals_its_source(
    source: ExportSource,
    form: str,
    options: ExportOptions,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    model = open_model(written(source, form, options, tmp_path), trust=True)
    images = photographs(*((192, 256) if options.dynamic else options.image_size))
    boxes, scores = model(images)
    wanted_boxes, wanted_scores = TorchModel(source.network, source.facts, torch.device("cpu"))(images)
    assert wanted_scores.amax() > 0.4 and wanted_scores.diff(dim=0).std() > 0.01
    if options.nms:
        thresholds = options.score_threshold, options.iou_threshold
        rows, _ = non_max_suppression(
            wanted_boxes, wanted_scores, *thresholds, max_detections=100, multi_label=False
        )
        wanted_boxes = rows[..., :4]
        wanted_scores = torch.zeros_like(scores).scatter(2, rows[..., 5:].long(), rows[..., 4:5])
        assert (scores > 0).sum() == (rows[..., 4] > 0).sum() > 1
        nearest = torch.cdist(wanted_boxes, boxes, p=torch.inf).argmin(2)[..., None]  # equal scores may swap
        boxes, scores = boxes.gather(1, nearest.expand_as(boxes)), scores.gather(1, nearest.expand_as(scores))
    record_property("score", float((scores - wanted_scores).abs().max()))
    record_property("box_px", float((boxes - wanted_boxes).abs().max()))
    torch.testing.assert_close(scores, wanted_scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(boxes, wanted_boxes, rtol=1e-4, atol=1e-2)  # px; some are 800 px wide
