"""Checkpoints whose hyper-parameters name files and classes, or are of the wrong kind."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.small_network import write_small_yaml
from yolo_lightning import YOLOv5
from yolo_lightning.errors import InputError
from yolo_lightning.model.architecture import is_self_contained, read_architecture, self_contained
from yolo_lightning.model.network import build_network
from yolo_lightning.training.hyper_parameters import architecture_of, checked_hyper_parameters


def write_checkpoint(path: Path, model: str, **hyper_parameters: Any) -> Path:
    module = YOLOv5(model, num_classes=2, compile=False)
    module.configure_model()
    contents = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams) | hyper_parameters,
        "pytorch-lightning_version": "2.6.0",
    }
    torch.save(contents, path)
    return path


def test_a_checkpoint_holds_the_yaml_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = write_small_yaml(tmp_path, anchors=True)
    with Path(yaml).open("a") as file:
        file.write("activation: nn.LeakyReLU(0.1)\nmade: 2026-01-01\n")  # a date is no plain value
    path = write_checkpoint(tmp_path / "best.ckpt", yaml)
    expected = build_network(yaml, 2)
    Path(yaml).unlink()
    monkeypatch.chdir("/")
    module = YOLOv5.load_from_checkpoint(path)
    assert is_self_contained(module.hparams["architecture"])
    assert str(module.network) == str(expected)
    assert self_contained(module.architecture) == module.architecture
    with path.open("rb") as file:
        assert str(YOLOv5.load_from_checkpoint(file).network) == str(expected)


@pytest.mark.parametrize("name", ["evil.yaml", "../evil.yaml", "/etc/passwd", "/dev/stdin", "x" * 5000])
def test_a_path_in_a_checkpoint_is_not_opened(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    yaml = write_small_yaml(tmp_path, anchors=True)
    Path("evil.yaml").write_text(Path(yaml).read_text())
    path = write_checkpoint(tmp_path / "old.ckpt", yaml, architecture=name)
    with pytest.raises(
        InputError, match=r"^\S*old\.ckpt: names the model file .*--model\.architecture FILE"
    ) as caught:
        YOLOv5.load_from_checkpoint(path)
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)
    assert YOLOv5.load_from_checkpoint(path, architecture=self_contained(yaml)).num_classes == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("architecture", ["yolov5n"]), ("architecture", None), ("num_classes", [2]), ("num_classes", 10**9),
        ("num_classes", "2"), ("num_classes", True), ("num_classes", 0), ("class_names", "names"),
        ("class_names", ["x" * 10_000]), ("class_names", [["x"]]), ("category_ids", ["x"]),
        ("category_ids", 7), ("channels_last", "evil.yaml"), ("seed", [1]), ("freeze", "all"),
        ("freeze", [None]),
        ("_instantiator", "evilmodule.run"), ("_class_path", "evilmodule.Evil"), (7, 7),
    ],
)  # fmt: skip
def test_a_hostile_value_is_refused_by_name(name: Any, value: Any) -> None:
    with pytest.raises(InputError, match=rf"^a\.ckpt: hyper_parameters\.{name} is ") as caught:
        checked_hyper_parameters({"architecture": "yolov5n", name: value}, "a.ckpt")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("values", [None, [], "evil.yaml"])
def test_hyper_parameters_are_a_mapping(values: Any) -> None:
    with pytest.raises(InputError, match=r"^a\.ckpt: hyper_parameters is "):
        checked_hyper_parameters(values, "a.ckpt")


def test_a_checkpoint_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "it_ran"
    (tmp_path / "evilmodule.py").write_text(f"open({str(marker)!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)  # type: ignore[no-untyped-call]
    for more in (
        {"_instantiator": "evilmodule.run"},
        {"_class_path": "evilmodule.Evil", "_instantiator": "lightning.pytorch.cli.instantiate_module"},
    ):
        path = write_checkpoint(tmp_path / "a.ckpt", "yolov5n", **more)
        with pytest.raises(InputError, match=r"hyper_parameters\._(instantiator|class_path) is"):
            YOLOv5.load_from_checkpoint(path)
    assert not marker.exists() and "evilmodule" not in sys.modules


@pytest.mark.parametrize(
    "content",
    ["{", "{}", '{"backbone": 1}', "{" * 5000,
     '{"backbone": [[-1, 1, "Evil", []]], "head": [[[0], 1, "Detect", []]]}',
     '{"backbone": [[-1, 1, "DetectionModel", ["evil.yaml"]]], "head": [[[0], 1, "Detect", []]]}'],
)  # fmt: skip
def test_the_content_of_a_yaml_is_checked_as_the_file_is(content: str) -> None:
    with pytest.raises(InputError, match=r"^model\.architecture: ") as caught:
        read_architecture(content)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_a_checkpoint_of_a_named_model_needs_no_file() -> None:
    assert architecture_of({"architecture": "yolov5s"}, None, "a.ckpt") == "yolov5s"
    with pytest.raises(InputError, match=r"--model\.architecture FILE"):
        architecture_of({}, None, "a.ckpt")
