from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from yolo_lightning.cli import benchmark
from yolo_lightning.cli.benchmark import run_benchmark, take_turns
from yolo_lightning.cli.export import run_export
from yolo_lightning.errors import InputError
from yolo_lightning.model.network import build_network


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A yolov5n of the five classes of the built-in set."""
    path = tmp_path_factory.mktemp("weights") / "mine.pt"
    torch.manual_seed(0)
    torch.save(build_network("yolov5n", 5).state_dict(), path)
    return path


def test_each_model_gets_a_row(
    weights: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.pt"
    other.write_bytes(weights.read_bytes())
    options = ["--image_size", "64", "--batch_size", "2", "--rounds", "1", "--data.root", str(shapes)]
    run_benchmark([str(weights), str(other), *options])
    *_, machine, head, first, second = capsys.readouterr().out.splitlines()
    assert machine.startswith("64 px, ") and head.split() == [
        "MB",
        "ms",
        "images/s",
        "at",
        "2",
        "mAP",
        "model",
    ]
    for row, path in ((first, weights), (second, other)):
        size, latency, throughput, value, name = row.split()
        assert name == str(path) and float(size) == pytest.approx(path.stat().st_size / 1e6, abs=0.1)
        assert float(latency) > 0 and float(throughput) > 0 and 0 <= float(value) <= 1
    assert first.split()[3] == second.split()[3]


def test_the_size_is_that_of_a_model_with_one_size(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--output", str(tmp_path), "--format", "torchscript", "--image_size", "64"]
    run_export(["--model.weights", str(weights), *options])
    both = [str(weights), str(tmp_path / "mine.torchscript"), "--trust", "--rounds", "1"]
    run_benchmark(both)
    assert "64 px, " in capsys.readouterr().out
    with pytest.raises(InputError, match=r"takes images of \(64, 64\) px alone, not of 96 px"):
        run_benchmark([*both, "--image_size", "96"])


def test_models_take_turns_and_the_median_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = 0.0, []
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: now)

    class Model:
        def __init__(self, name: str, seconds: list[float]) -> None:
            self.name, self.seconds = name, iter(seconds)

        def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal now
            calls.append(self.name)
            now += next(self.seconds)
            return images, images

    models = [Model("a", [9, 9, 1, 8, 2]), Model("b", [9, 9, 5, 6, 7])]
    assert take_turns(models, torch.zeros(1), 3) == [2, 6]  # type: ignore[arg-type]
    assert calls == ["a", "b"] * 5


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["missing.onnx"], "missing.onnx"),
        (["missing.onnx", "--rounds", "0"], "--rounds is 0; give 1 or more"),
        (["missing.onnx", "--device", "gpu"], "device gpu: cannot be used"),
        (["missing.pt2"], "missing.pt2"),
    ],
)
def test_wrong_options(options: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        run_benchmark(options)


def test_a_size_that_the_model_cannot_have_is_refused(weights: Path) -> None:
    with pytest.raises(InputError, match="--image_size 100 is not a multiple of 32; use 96"):
        run_benchmark([str(weights), "--image_size", "100"])


def test_a_model_of_other_classes_has_no_map(tmp_path: Path, shapes: Path) -> None:
    path = tmp_path / "mine.pt"
    torch.save(build_network("yolov5n", 3).state_dict(), path)
    with pytest.raises(InputError, match="has 5 classes and the model 3"):
        run_benchmark([str(path), "--image_size", "64", "--data.root", str(shapes)])
