"""What an export computes, in its own runtime, against the network that it came from."""

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from yolo_lightning.errors import InputError
from yolo_lightning.evaluation.detect import non_max_suppression
from yolo_lightning.export.formats import FORMATS, ExportOptions, ExportSource, find_format
from yolo_lightning.inference.runtimes import open_model
from yolo_lightning.inference.trained_model import ModelFacts, TorchModel
from yolo_lightning.model.network import build_network

NEEDS = {"onnx": ("onnx", "onnxslim", "onnxruntime"), "openvino": ("openvino", "nncf")}
NAMES = ("a cat", "dog's", "鸟")
BOX_PX = 0.05
"""Random weights amplify rounding: the same network in float64 differs by 0.01 px."""
SIZE = ExportOptions((64, 96), batch_size=2)
SUPPRESSING = replace(SIZE, nms=True, score_threshold=0.3, iou_threshold=0.5, max_detections=40)


def make_source(name: str) -> ExportSource:
    """A network whose scores spread over 0..1."""
    torch.manual_seed(0)
    network = build_network(name, len(NAMES)).eval().requires_grad_(False)
    side = 192 if name.endswith("6") else 160  # a multiple of the stride
    images = torch.rand(4, 3, side, side)
    for module in network.modules():  # as training does, or all pixels look alike
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train().momentum = None
    network(images)
    network.eval()
    for convolution in network.model[-1].modules():
        if isinstance(convolution, torch.nn.Conv2d) and convolution.bias is not None:
            convolution.bias.copy_(torch.randn_like(convolution.bias))
    thresholds = (0.25, 0.125, 0.5)
    facts = ModelFacts(NAMES, (3, 7, 9), (320, 320), network.stride, score_thresholds=thresholds)
    return ExportSource(network, facts, name)


@pytest.fixture(scope="module", params=["yolov5n", "yolov5nu"])
def source(request: pytest.FixtureRequest) -> ExportSource:
    return make_source(request.param)


def pictures(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def written(source: ExportSource, name: str, options: ExportOptions, folder: Path) -> Path:
    for library in NEEDS.get(name, ()):
        pytest.importorskip(library)
    form = find_format(name, options)
    path = form.path(folder, "model", options)
    form.write(source, path, options)
    return path


def reference(source: ExportSource, images: Tensor) -> tuple[Tensor, Tensor]:
    return TorchModel(source.network, source.facts, torch.device("cpu"))(images)


@pytest.mark.parametrize("name", ["onnx", "openvino", "torchscript", "torch-export"])
def test_an_export_gives_the_boxes_and_scores_of_its_source(
    source: ExportSource, name: str, tmp_path: Path
) -> None:
    model = open_model(written(source, name, SIZE, tmp_path), trust=True)
    facts = source.facts
    assert model.facts == replace(facts, batch_size=2, input_size=(64, 96))
    images = pictures(3, 3, 64, 96)  # the third image makes a batch that is not full
    boxes, scores = model(images)
    wanted_boxes, wanted_scores = reference(source, images)
    assert scores.amax() > 0.5 > 0.1 > scores.amin()
    torch.testing.assert_close(scores, wanted_scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(boxes, wanted_boxes, rtol=0, atol=BOX_PX)


@pytest.mark.parametrize("name", ["onnx", "openvino", "torchscript"])
def test_an_open_shape_takes_any_batch_and_size(source: ExportSource, name: str, tmp_path: Path) -> None:
    model = open_model(written(source, name, replace(SIZE, dynamic=True), tmp_path), trust=True)
    assert (model.facts.batch_size, model.facts.input_size) == (None, None)
    for shape in ((1, 3, 96, 64), (3, 3, 128, 160)):
        images = pictures(*shape)
        wanted = reference(source, images)
        torch.testing.assert_close(model(images), wanted, rtol=0, atol=BOX_PX)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", ["onnx", "openvino", "torchscript"])
def test_suppression_inside_gives_the_detections_of_the_evaluation(
    source: ExportSource, name: str, dynamic: bool, tmp_path: Path
) -> None:
    options = replace(SUPPRESSING, dynamic=dynamic)
    model = open_model(written(source, name, options, tmp_path), trust=True)
    images = pictures(2, 3, *((96, 128) if dynamic else (64, 96)))
    boxes, scores = model(images)
    wanted, counts = non_max_suppression(
        *reference(source, images), 0.3, 0.5, max_detections=40, multi_label=False
    )
    assert counts.min() > 5
    best, label = scores.max(dim=-1)
    found = torch.cat((boxes, best[..., None], label[..., None].float()), dim=-1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=BOX_PX)


@pytest.mark.parametrize("name", ["onnx", "openvino", "torchscript"])
def test_half_precision_is_smaller_and_close(name: str, tmp_path: Path) -> None:
    source = make_source("yolov5n")
    whole = written(source, name, SIZE, tmp_path)
    half = written(source, name, replace(SIZE, half=True), tmp_path)
    assert half != whole
    images = pictures(2, 3, 64, 96)
    scores, wanted = open_model(half, trust=True)(images)[1], reference(source, images)[1]
    assert 0 < (scores - wanted).abs().max() < 0.05
    sizes = [sum(f.stat().st_size for f in [p, *p.rglob("*")] if f.is_file()) for p in (half, whole)]
    assert sizes[0] < 0.6 * sizes[1]


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_int8_keeps_the_head_in_float_and_the_scores_close(
    source: ExportSource, name: str, tmp_path: Path
) -> None:
    images = pictures(8, 3, 64, 96)
    calibration = (images * 255).round().byte()
    path = written(source, name, replace(SIZE, int8=True, calibration=calibration), tmp_path)
    scores, wanted = open_model(path)(images)[1], reference(source, images)[1]
    assert 1e-4 < (scores - wanted).abs().mean() < 0.06
    assert torch.corrcoef(torch.stack((scores.flatten(), wanted.flatten())))[0, 1] > 0.95
    if name == "onnx":
        graph = importlib.import_module("onnx").load(path).graph
        quantised = {
            name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output
        }
        head = f"/network/model.{len(source.network.model) - 1}/"
        last = [n for n in graph.node if n.op_type == "Conv" and n.name.startswith(head)]
        last = [n for n in last if not n.name.endswith("/conv/Conv")]
        assert len(last) in (3, 6) and not any(quantised & set(node.input[1:]) for node in last)


@pytest.mark.long  # compiles C++ for half a minute
@pytest.mark.timeout(900)
@pytest.mark.parametrize("source", ["yolov5n", "yolov5nu"], indirect=True)
def test_aotinductor_gives_the_boxes_and_scores_of_its_source(source: ExportSource, tmp_path: Path) -> None:
    model = open_model(written(source, "aoti", SIZE, tmp_path), trust=True)
    assert model.facts == replace(source.facts, batch_size=2, input_size=(64, 96))
    images = pictures(2, 3, 64, 96)
    torch.testing.assert_close(model(images), reference(source, images), rtol=0, atol=BOX_PX)


def test_aotinductor_without_a_compiler_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="needs a C\\+\\+ compiler; install g\\+\\+"):
        written(make_source("yolov5n"), "aoti", SIZE, tmp_path)


@pytest.mark.parametrize("name", ["model.pt2", "model.torchscript"])
def test_a_file_with_a_program_is_opened_only_with_trust(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match="contains a program"):
        open_model(tmp_path / name)
    with pytest.raises(InputError, match="cannot be opened"):
        open_model(tmp_path / name, trust=True)


def test_a_folder_without_a_graph_and_a_damaged_file_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(InputError, match=r"has 0 \.xml files"):
        open_model(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match=r"model\.onnx: cannot be opened"):
        open_model(tmp_path / "model.onnx")


def test_an_onnx_file_of_another_program_is_read_by_its_shape(source: ExportSource, tmp_path: Path) -> None:
    """Those of ultralytics/yolov5 and ultralytics name the classes, but not their layout."""
    path = written(source, "onnx", SIZE, tmp_path)
    onnx = importlib.import_module("onnx")
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"stride": "32", "names": str(dict(enumerate(NAMES)))})
    onnx.save(model, path)
    images = pictures(2, 3, 64, 96)
    opened = open_model(path)
    assert (opened.facts.class_names, opened.facts.category_ids) == (NAMES, None)
    assert (opened.facts.batch_size, opened.facts.input_size) == (2, (64, 96))
    torch.testing.assert_close(opened(images), reference(source, images), rtol=0, atol=BOX_PX)


def test_a_torchscript_file_of_yolov5_tells_its_shape(tmp_path: Path) -> None:
    facts = {"shape": [2, 3, 64, 96], "stride": 32, "names": dict(enumerate(NAMES))}
    module = torch.jit.trace(torch.nn.Identity(), torch.zeros(1))
    torch.jit.save(module, tmp_path / "m.torchscript", _extra_files={"config.txt": json.dumps(facts)})
    opened = open_model(tmp_path / "m.torchscript", trust=True).facts
    assert (opened.batch_size, opened.input_size, opened.class_names) == (2, (64, 96), NAMES)


@pytest.fixture
def head_of_another_program() -> Callable[[Path, int, Any], Path]:
    """Write an ONNX file whose input has a type, and whose output is a table of a number of columns."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")

    def write(path: Path, columns: int, dtype: Any) -> Path:
        class Table(torch.nn.Module):
            def forward(self, images: Tensor) -> Tensor:
                return images.mean(dim=(2, 3))[:, :1, None].expand(1, 9, columns)

        images = torch.zeros(1, 3, 64, 64, dtype=dtype)
        torch.onnx.export(Table(), (images,), path, dynamo=False)
        model = onnx.load(path)
        onnx.helper.set_model_props(model, {"stride": "32", "names": str(dict(enumerate(NAMES)))})
        onnx.save(model, path)
        return path

    return write


def test_an_onnx_file_with_half_precision_input_runs(
    head_of_another_program: Callable[[Path, int, Any], Path], tmp_path: Path
) -> None:
    """Such as export.py --half of ultralytics/yolov5 writes."""
    model = open_model(head_of_another_program(tmp_path / "half.onnx", 8, torch.float16))
    _, scores = model(torch.full((1, 3, 64, 64), 0.5))
    assert scores.dtype == torch.float32 and scores.shape == (1, 9, 3)
    torch.testing.assert_close(scores, torch.full((1, 9, 3), 0.25))


def test_a_model_that_segments_is_refused(
    head_of_another_program: Callable[[Path, int, Any], Path], tmp_path: Path
) -> None:
    """32 masks follow the classes, so that the columns would be read as something else."""
    model = open_model(head_of_another_program(tmp_path / "seg.onnx", 8 + 32, torch.float32))
    with pytest.raises(InputError, match=r"tensor \(1, 9, 40\), which is no table of boxes of 3 classes"):
        model(torch.zeros(1, 3, 64, 64))


def test_a_file_without_names_is_named(
    head_of_another_program: Callable[[Path, int, Any], Path], tmp_path: Path
) -> None:
    onnx = importlib.import_module("onnx")
    model = onnx.load(path := head_of_another_program(tmp_path / "m.onnx", 8, torch.float32))
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(InputError, match=r"m\.onnx: cannot be opened \(.*does not name its classes\)"):
        open_model(path)


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(importlib.import_module("sys").modules, "onnxruntime", None)
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"onnxruntime is not installed; run pip install 'yolo-lightning\[onnx\]'"
    ):
        open_model(tmp_path / "model.onnx")


def test_every_format_names_options_that_exist() -> None:
    for form in FORMATS.values():
        assert all(hasattr(SIZE, option) for option in form.options)
