import os
import re
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.export.test_written_models import make_source
from yolo_lightning.cli.export import _calibration_images, export_model, run_export
from yolo_lightning.data.annotations.source import DataSource
from yolo_lightning.data.synthetic import make_dataset
from yolo_lightning.errors import InputError
from yolo_lightning.export import torchscript, verification
from yolo_lightning.export.formats import ExportOptions, ExportSource, find_format
from yolo_lightning.export.tensorrt import trtexec_command
from yolo_lightning.inference.trained_model import TorchModel


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A yolov5n of three classes."""
    path = tmp_path_factory.mktemp("weights") / "mine.pt"
    torch.save(make_source("yolov5n").network.state_dict(), path)
    return path


def export(weights: Path, output: Path, *options: str) -> None:
    run_export(["--model.weights", str(weights), "--output", str(output), "--image_size", "64", *options])


def test_each_format_gets_a_file_and_a_row(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(weights, tmp_path / "out", "--format", "torchscript")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.torchscript"]
    head, source, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["format", "score", "box", "px", "lost", "mAP", "MB", "ms", "file"]
    assert source.split()[0] == "source"
    name, score, box_px, lost, size, _, path = row.split()
    assert (name, path) == ("torchscript", str(tmp_path / "out" / "mine.torchscript"))
    assert float(score) < 1e-4 and float(box_px) < 1e-2 and 5 < float(size) < 10
    assert re.fullmatch(r"0/[1-9]\d{2,}", lost)  # there were detections to compare


def spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let TorchScript have other results than the source."""
    right: Callable[..., torch.nn.Module] = torchscript.build_module

    def wrong(source: ExportSource, options: ExportOptions) -> torch.nn.Module:
        module = right(source, options)
        module.register_forward_hook(lambda _module, _images, output: output + 0.02)
        return module

    monkeypatch.setattr(torchscript, "build_module", wrong)


def test_an_export_that_differs_is_status_1_and_kept(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch)
    with pytest.raises(SystemExit, match="1"):
        export(weights, tmp_path, "--format", "torchscript")
    assert "error: torchscript: differs from the source" in capsys.readouterr().err
    assert (tmp_path / "mine.torchscript").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "torchscript", "--int8", "--data.root", "x"], "--format torchscript has no --int8"),
        (["--format", "onnx", "--int8"], r"give their data set as --data\.root"),
        (["--format", "onnx", "--image_size", "100"], "--image_size 100 is not a multiple of 32; use 96"),
        (["--format", "onnx", "--half", "--int8", "--data.root", "x"], "exclude each other"),
        (["--format", "onnx", "--nms", "--iou_threshold", "45"], "--iou_threshold is 45.0; give a number"),
        (["--format", "onnx", "--opset", "99"], "--opset is 99; give a number from 13 to 20"),
        (["--format", "onnx", "--batch_size", "0"], "--batch_size is 0; give 1 or more"),
        (["--format", "onnx", "--ckpt_path", "best"], r"either --ckpt_path CKPT or --model\.weights FILE"),
    ],
)
def test_wrong_options_are_one_sentence(
    options: list[str], message: str, weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        export(weights, tmp_path, *options)
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_does_not_suit_is_named_first(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="yolov5n: --format ultralytics takes models without anchors;"):
        export(weights, tmp_path, "--format", "torchscript", "ultralytics")
    assert list(tmp_path.iterdir()) == []


def test_a_call_from_python_gives_the_paths(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"output": tmp_path, "image_size": 64}
    paths = export_model(weights, "torchscript", "safetensors", nms=False, **options)
    assert paths == [tmp_path / "mine.torchscript", tmp_path / "mine.safetensors"]
    assert all(path.is_file() for path in paths)
    with pytest.raises(InputError, match="an option of export_model is wrong"):
        export_model(weights, "torchscript", image_siez=64)
    assert "image_siez" in capsys.readouterr().err
    spoil(monkeypatch)
    with pytest.raises(InputError, match="torchscript: differs from"):
        export_model(weights, "torchscript", **options)


@pytest.mark.parametrize("batch_size", [2, 8])
def test_int8_measures_whole_batches(weights: Path, tmp_path: Path, batch_size: int) -> None:
    """A model of fixed batch takes no other."""
    data = DataSource(make_dataset(tmp_path / "shapes", train_images=5, val_images=1, image_size=64), {}, {})
    options = ExportOptions((64, 64), batch_size)
    images = _calibration_images(data.find_errors("train", keep=False), options)
    assert images.dtype == torch.uint8
    assert images.shape == ({2: 6, 8: 8}[batch_size], 3, 64, 64)


def test_data_of_other_classes_are_refused(weights: Path, tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "shapes", train_images=1, val_images=2, image_size=64)
    with pytest.raises(InputError, match="has 5 classes and the model 3"):
        export(weights, tmp_path / "out", "--format", "torchscript", "--data.root", str(root))


def test_the_comparison_counts_what_is_lost_and_measures_what_is_not(tmp_path: Path) -> None:
    source = make_source("yolov5n")
    root = make_dataset(tmp_path / "shapes", train_images=1, val_images=2, image_size=64)
    index = DataSource(root=root, annotations={}, images={}).find_errors("val", keep=False)
    batches = list(verification.letterboxed(index, (64, 64), 1))
    model = TorchModel(source.network, source.facts, torch.device("cpu"))

    class Moved(TorchModel):
        def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
            boxes, scores = super().__call__(images)
            return boxes + 0.25, scores * 0.9

    class Blind(TorchModel):
        def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
            boxes, scores = super().__call__(images)
            return boxes, scores * 0

    def compared(kind: type[TorchModel]) -> verification.Comparison:
        other = kind(source.network, source.facts, torch.device("cpu"))
        return verification.compare(model, other, batches, ExportOptions((64, 64)))

    same, moved, blind = compared(TorchModel), compared(Moved), compared(Blind)
    assert (same.lost, same.score, same.box_px) == (0, 0.0, 0.0) and same.detections > 100
    assert moved.lost == 0 and moved.box_px == pytest.approx(0.25, abs=1e-4)
    strongest = max(float(model(verification.as_input(batch))[1].max()) for batch in batches)
    assert moved.score == pytest.approx(0.1 * strongest, abs=1e-4)
    assert 0.9 * blind.detections < blind.lost <= blind.detections
    assert [one.is_within(verification.FLOAT) for one in (same, moved, blind)] == [True, False, False]


def test_tensorrt_gets_a_graph_and_the_command_that_builds_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("onnx", "onnxslim"):
        pytest.importorskip(library)
    source = make_source("yolov5n")
    options = ExportOptions((64, 96), batch_size=4, dynamic=True, half=True)
    form = find_format("tensorrt", options)
    form.write(source, tmp_path / "model_tensorrt", options)
    assert {path.name for path in (tmp_path / "model_tensorrt").iterdir()} == {"model.onnx", "build.sh"}
    script = tmp_path / "model_tensorrt" / "build.sh"
    assert script.stat().st_mode & stat.S_IXUSR
    command = script.read_text().splitlines()[-1].split("&& ")[1]
    assert (
        command
        == trtexec_command(options, 32)
        == (
            "trtexec --onnx=model.onnx --saveEngine=model.engine --fp16 --minShapes=images:1x3x32x32 "
            "--optShapes=images:4x3x64x96 --maxShapes=images:4x3x64x96"
        )
    )
    # Where there are a GPU and trtexec, the engine is built at once, in the folder of the graph.
    fake = tmp_path / "bin" / "trtexec"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\ntest -f model.onnx && echo $@ > model.engine\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent), prepend=os.pathsep)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    form.write(source, tmp_path / "model_tensorrt", replace(options, half=False, dynamic=False))
    assert "--saveEngine=model.engine" in (tmp_path / "model_tensorrt" / "model.engine").read_text()
    fake.write_text("#!/bin/sh\necho '[E] no memory' >&2\nexit 1\n")
    with pytest.raises(InputError, match=r"cannot build the engine \(\[E\] no memory\)"):
        form.write(source, tmp_path / "model_tensorrt", options)
