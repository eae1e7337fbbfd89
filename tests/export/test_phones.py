"""Exports for phones and small boards."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from tests.export.test_checkpoints import NAMES, trained
from yolo_lightning.errors import InputError
from yolo_lightning.export.formats import ExportOptions, find_format

SIZE = (64, 96)


def export(architecture: str, name: str, folder: Path, half: bool = False) -> tuple[Path, Tensor, Tensor]:
    """The exported model, an image for it, and what the network makes of it."""
    source, options = trained(architecture), ExportOptions(SIZE, half=half)
    path = find_format(name, options).path(folder, "best", options)
    find_format(name, options).write(source, path, options)
    image = torch.rand(1, 3, *SIZE)
    return path, image, source.network.head.export_rows(source.network(image))


@pytest.mark.parametrize("architecture", ["yolov5n", "yolov5nu"])
@pytest.mark.parametrize("half", [False, True])
def test_ncnn_finds_what_we_find(architecture: str, half: bool, tmp_path: Path) -> None:
    pytest.importorskip("pnnx")
    ncnn = pytest.importorskip("ncnn")
    path, image, wanted = export(architecture, "ncnn", tmp_path, half)
    assert sorted(file.name for file in path.iterdir()) == [
        *("metadata.yaml", "model.ncnn.bin", "model.ncnn.param"),
    ]
    net = ncnn.Net()
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    net.load_param(str(path / "model.ncnn.param"))
    net.load_model(str(path / "model.ncnn.bin"))
    extractor = net.create_extractor()
    extractor.input(net.input_names()[0], ncnn.Mat(image[0].numpy()))
    _, found = extractor.extract(net.output_names()[0])
    torch.testing.assert_close(
        torch.from_numpy(np.array(found)), wanted[0], rtol=1e-3, atol=3.0 if half else 0.02
    )
    facts = yaml.safe_load((path / "metadata.yaml").read_text())
    assert facts["names"] == dict(enumerate(NAMES)) and facts["imgsz"] == list(SIZE)


def test_ncnn_takes_one_image(tmp_path: Path) -> None:
    pytest.importorskip("pnnx")
    options = ExportOptions(SIZE, batch_size=2)
    with pytest.raises(InputError, match="--batch_size is 2; ncnn takes one image a call"):
        find_format("ncnn", options).write(trained("yolov5n"), tmp_path / "model", options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("half", [False, True])
def test_a_core_ml_package_says_what_it_takes_and_gives(half: bool, tmp_path: Path) -> None:
    """Only macOS can run it."""
    coremltools = pytest.importorskip("coremltools")
    path, _, wanted = export("yolov5n", "coreml", tmp_path, half)
    model = coremltools.models.MLModel(str(path), skip_model_load=True)
    description = model.get_spec().description
    (given,), (found,) = description.input, description.output
    assert (given.name, *given.type.multiArrayType.shape) == ("images", 1, 3, *SIZE)
    assert (found.name, *found.type.multiArrayType.shape) == ("output0", *wanted.shape)
    assert model.user_defined_metadata["names"] == str(dict(enumerate(NAMES)))
    weights = sum(file.stat().st_size for file in path.rglob("*.bin"))
    assert (weights < 5e6) == half


def test_core_ml_has_no_u_models(tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    with pytest.raises(InputError, match="yolov5nu: coremltools cannot convert"):
        export("yolov5nu", "coreml", tmp_path)


@pytest.mark.parametrize("architecture", ["yolov5n", "yolov5nu"])
def test_litert_finds_what_we_find(architecture: str, tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")
    from ai_edge_litert.interpreter import Interpreter

    path, image, wanted = export(architecture, "litert", tmp_path)
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image.numpy())
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-3, atol=0.02)
    facts = json.loads(zipfile.ZipFile(path).read("metadata.json"))
    assert list(facts["names"].values()) == list(NAMES)
