"""Exports that other programs read as their own checkpoints, and that this package reads back."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor, nn
from ultralytics.nn import modules
from ultralytics.nn.tasks import load_checkpoint

from tests.model.test_hub_models import HUB
from tests.support.small_network import write_small_yaml
from yolo_lightning.__main__ import main
from yolo_lightning.data.image_size import Size
from yolo_lightning.errors import InputError
from yolo_lightning.export.formats import ExportOptions, ExportSource, find_format, metadata
from yolo_lightning.inference.trained_model import ModelFacts, load_network
from yolo_lightning.model.network import build_network
from yolo_lightning.model.weights import load_weights
from yolo_lightning.runs.directory import with_run_config

NAMES = ("cat", "dog", "hen")


def trained(architecture: str) -> ExportSource:
    """A network of random weights whose batch norms change what they normalise."""
    torch.manual_seed(0)
    network = build_network(architecture, 3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    facts = ModelFacts(NAMES, (1, 2, 90), (320, 320), network.stride, score_thresholds=(0.25, 0.5, 0.125))
    return ExportSource(network.eval().requires_grad_(False), facts, architecture)


def export(source: ExportSource, name: str, folder: Path, half: bool = False) -> Path:
    options = ExportOptions((64, 64), half=half)
    path = find_format(name, options).path(folder, "best", options)
    find_format(name, options).write(source, path, options)
    return path


def hub(name: str, folder: Path) -> str:
    path = folder / "model.yaml"
    path.write_text(yaml.safe_dump(HUB[name][0]))
    return str(path)


class Detect(nn.Module):
    """The classic head by its attributes: (B, K, 5+C) from the features of each level."""

    def forward(self, features: list[Tensor]) -> Tensor:
        me: Any = self
        rows = []
        for level, feature in enumerate(features):
            raw = me.m[level](feature).sigmoid()
            batch, _, height, width = raw.shape
            raw = raw.view(batch, me.na, me.no, height, width).permute(0, 1, 3, 4, 2)
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            cells = torch.stack((x, y), 2) - 0.5
            xy = (raw[..., :2] * 2 + cells) * me.stride[level]
            anchors = me.anchors[level] * me.stride[level]
            wh = (raw[..., 2:4] * 2) ** 2 * anchors.view(1, me.na, 1, 1, 2)
            rows.append(torch.cat((xy, wh, raw[..., 4:]), 4).reshape(batch, -1, me.no))
        return torch.cat(rows, 1)


class DetectionModel(nn.Module):
    """The classic model by its attributes."""

    def forward(self, images: Tensor) -> Tensor:
        me: Any = self
        kept: list[Any] = []
        value: Any = images
        for layer in me.model:
            if layer.f != -1:
                sources = layer.f
                value = kept[sources] if isinstance(sources, int) else [
                    value if one == -1 else kept[one] for one in sources
                ]  # fmt: skip
            value = layer(value)
            kept.append(value if layer.i in me.save else None)
        found: Tensor = value
        return found


@pytest.fixture
def classic_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importable modules as in the classic code: ultralytics' blocks are its blocks under other names."""
    common, yolo = types.ModuleType("models.common"), types.ModuleType("models.yolo")
    vars(common).update(vars(modules))
    vars(common)["TransformerLayer"] = modules.transformer.TransformerLayer
    vars(common)["TransformerBlock"] = modules.transformer.TransformerBlock
    vars(yolo).update(Detect=Detect, DetectionModel=DetectionModel)
    for name, module in (("models", types.ModuleType("models")), ("models.common", common)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "models.yolo", yolo)


@pytest.mark.parametrize("name", ["yolov5n", "yolov5n6", "ghost", "transformer", "LeakyReLU", "p34"])
def test_the_classic_code_finds_what_we_find(name: str, tmp_path: Path, classic_code: None) -> None:
    source = trained(hub(name, tmp_path) if name in HUB else name)
    source.network.to(memory_format=torch.channels_last)  # as the verification of an export does
    path = export(source, "yolov5", tmp_path)
    assert path.name == "best_yolov5.pt"
    content = torch.load(path, weights_only=False)
    model = content["model"]
    assert isinstance(model, DetectionModel) and isinstance(model.model[-1], Detect)
    assert all(parameter.is_contiguous() for parameter in model.parameters())  # fusing asks for it
    images = torch.rand(1, 3, 128, 192)
    wanted = source.network.head.export_rows(source.network(images))
    torch.testing.assert_close(model(images), wanted, rtol=1e-5, atol=1e-3)
    assert model.names == dict(enumerate(NAMES))
    assert model.stride.tolist() == list(source.network.strides)
    assert {type(value) for value in model.yaml.values()} <= {int, float, str, list}
    assert content["ema"] is None and content["epoch"] == -1


@pytest.mark.parametrize(  # 300 becomes 320 in the training of the classic code
    ("size", "option"), [((320, 320), "320"), ((300, 300), "320"), ((192, 320), "[192, 320]")]
)
def test_predict_takes_the_image_size_of_weights(size: Size, option: str, tmp_path: Path) -> None:
    source = trained("yolov5n")
    source = replace(source, facts=replace(source.facts, image_size=size))
    path = export(source, "yolov5", tmp_path)
    command = ["predict", f"--model.weights={path}", "--data.image_size=64"]  # the last size counts
    known = ["--model.architecture=yolov5n", f"--data.image_size={option}"]
    assert with_run_config(command) == ["predict", *known, *command[1:]]
    assert with_run_config(["validate", *command[1:]]) == ["validate", known[0], *command[1:]]
    by_name = ["predict", "--model.weights=yolov5n"]
    assert with_run_config(by_name, lambda _: path) == ["predict", *known, by_name[1]]
    config = tmp_path / "mine.yaml"
    config.write_text(f"model: {{weights: {path}}}")
    command = ["predict", "--config", str(config)]
    assert with_run_config(command) == ["predict", *known, *command[1:]]
    assert with_run_config(["fit", *command[1:]]) == ["fit", *command[1:]]


def test_predict_takes_the_architecture_of_weights(
    tmp_path: Path, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = export(trained("yolov5nu"), "safetensors", tmp_path)
    command = [
        "predict", f"--model.weights={path}", f"--data.predict_source={shapes / 'images' / 'val'}",
        f"--runs_dir={tmp_path}", "--data.image_size=64", "--trainer.accelerator=cpu", "--trainer.devices=1",
    ]  # fmt: skip
    main(command)
    assert (tmp_path / "predict/version_0/predictions.json").is_file()
    capsys.readouterr()
    with pytest.raises(SystemExit):  # its backbone fits, its head does not
        main([*command, "--model.architecture=yolov5n"])
    assert "leave --model.architecture out, or give that of the weights" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["yolov5n", "ghost", "LeakyReLU", "p34"])
@pytest.mark.parametrize("format_name", ["yolov5", "safetensors"])
def test_a_checkpoint_that_leaves_comes_back(format_name: str, name: str, tmp_path: Path) -> None:
    source = trained(hub(name, tmp_path) if name in HUB else name)
    network, facts, architecture = load_network(export(source, format_name, tmp_path))
    images = torch.rand(1, 3, 64, 64)
    travels = metadata(source, ExportOptions((64, 64)))["architecture"]
    assert build_network(travels, 3).strides == network.strides
    for first, second in zip(network.eval()(images), source.network(images), strict=True):
        assert torch.equal(first, second)
    assert (facts.class_names, facts.image_size, facts.stride) == (NAMES, (320, 320), source.facts.stride)
    is_ours = format_name == "safetensors"
    assert facts.category_ids == ((1, 2, 90) if is_ours else None)
    assert facts.score_thresholds == ((0.25, 0.5, 0.125) if is_ours else None)
    assert (architecture == name) == (name == "yolov5n")


def test_the_yaml_within_a_classic_checkpoint_builds_its_model(tmp_path: Path) -> None:
    """The classic code builds the model that it trains from it, and then copies the weights."""
    source = trained("yolov5n6")
    weights = load_weights(export(source, "yolov5", tmp_path))
    assert weights.architecture == "yolov5n6"
    content = HUB["p34"][0]
    weights = load_weights(export(trained(hub("p34", tmp_path)), "yolov5", tmp_path))
    assert weights.architecture is not None
    description = yaml.safe_load(weights.architecture)
    assert description["head"][-1] == content["head"][-1]
    assert description["width_multiple"] == 0.25
    assert description["anchors"][1] == pytest.approx([64, 64, 80.635, 80.635, 101.594, 101.594], abs=1e-3)


@pytest.mark.parametrize("architecture", ["yolov5nu", "small"])
def test_ultralytics_finds_what_we_find(architecture: str, tmp_path: Path) -> None:
    name = write_small_yaml(tmp_path, anchors=False) if architecture == "small" else architecture
    source = trained(name)
    path = export(source, "ultralytics", tmp_path)
    assert path.name == "best_ultralytics.pt"
    model: Any
    model, _ = load_checkpoint(path)
    images = torch.rand(1, 3, 64, 128)
    wanted = source.network.head.export_rows(source.network(images))
    torch.testing.assert_close(model(images)[0], wanted, rtol=1e-5, atol=1e-3)
    assert (model.names, model.task, model.args["imgsz"]) == (dict(enumerate(NAMES)), "detect", 320)
    network, facts, _ = load_network(path)
    assert torch.equal(network.eval()(images)[0], source.network(images)[0])
    assert (facts.class_names, facts.image_size) == (NAMES, (320, 320))


@pytest.mark.parametrize(
    ("format_name", "architecture"),
    [("yolov5", "yolov5n"), ("ultralytics", "yolov5nu"), ("safetensors", "yolov5n")],
)
def test_half_precision_halves_the_file(format_name: str, architecture: str, tmp_path: Path) -> None:
    source = trained(architecture)
    whole, half = (export(source, format_name, tmp_path, half) for half in (False, True))
    assert half.stem.startswith("best_half")
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    state = load_weights(half).state_dict
    for name, tensor in source.network.state_dict().items():
        rounded = tensor.half().float() if tensor.is_floating_point() else tensor
        assert torch.equal(state[name], rounded)
    assert next(source.network.parameters()).dtype == torch.float32


def test_a_head_that_the_other_program_lacks_names_the_other_format(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"yolov5nu: .* use --format ultralytics"):
        export(trained("yolov5nu"), "yolov5", tmp_path)
    with pytest.raises(InputError, match=r"yolov5n: .* use --format yolov5"):
        export(trained("yolov5n"), "ultralytics", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_weights_has_the_permissions_of_other_files(tmp_path: Path) -> None:
    path = export(trained("yolov5n"), "safetensors", tmp_path)
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_block_that_yolov5_lacks_is_named(tmp_path: Path) -> None:
    path = Path(write_small_yaml(tmp_path, anchors=True))
    path.write_text(path.read_text().replace("C3,", "C2f,"))
    with pytest.raises(InputError, match="has the block C2f, which yolov5 lacks"):
        export(trained(str(path)), "yolov5", tmp_path)


def test_writing_a_classic_checkpoint_leaves_the_modules_of_python_alone(tmp_path: Path) -> None:
    mine = types.ModuleType("models")
    before = dict(sys.modules)
    sys.modules["models"] = mine
    try:
        export(trained("yolov5n"), "yolov5", tmp_path)
        assert sys.modules.pop("models") is mine
    finally:
        sys.modules.pop("models", None)
    assert {name for name in sys.modules if name not in before} == set()


@pytest.mark.parametrize(
    "facts",
    [
        '{"image_size": "x", "architecture": 3}',
        '{"names": ["a"]}',
        '{"category_ids": ["x"]}',
        "[1]",
        "{",
        '{"image_size": ["x", 64]}',
    ],
)
def test_what_a_stranger_writes_into_a_file_of_weights_is_not_believed(facts: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(build_network("yolov5n", 3).state_dict(), path, {"yolo_lightning": facts})
    try:
        weights = load_weights(path)
    except InputError as error:
        assert str(error).startswith(f"{path}: cannot be read as a checkpoint")
    else:
        assert (weights.class_names, weights.image_size, weights.architecture) == (None, None, None)
