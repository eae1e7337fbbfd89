from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from yolo_lightning.errors import InputError
from yolo_lightning.model.network import build_network
from yolo_lightning.model.weights import (
    LoadedWeights,
    identify_architecture,
    load_weights,
    transfer_weights,
)

OFFICIAL = Path(__file__).parents[3] / "shared" / "weights" / "yolov5n.pt"


class ClassicHead(nn.Module):
    """The tensors of a classic head: 2 levels, 3 anchors a cell."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("anchors", torch.rand(2, 3, 2) + 1)
        self.m = nn.ModuleList(nn.Conv2d(8, 3 * (5 + num_classes), 1) for _ in range(2))


class Network(nn.Module):
    """Two layers of features and a classic head, with classic names."""

    def __init__(self, num_classes: int = 4, width: int = 8) -> None:
        super().__init__()
        features = [nn.Sequential(nn.Conv2d(3, width, 6), nn.BatchNorm2d(width), nn.Conv2d(width, width, 1))]
        self.model = nn.Sequential(*features, ClassicHead(num_classes))


def held(state: dict[str, Tensor], num_classes: int | None = None) -> LoadedWeights:
    return LoadedWeights(Path("w.pt"), state, num_classes=num_classes, class_names=None)


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def classic_package(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> type[nn.Module]:
    """An importable class as the classic code (or its PyPI package, or ultralytics) has it."""
    name = getattr(request, "param", "models.yolo")
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))

    class DetectionModel(Network):
        pass

    class Head(ClassicHead):
        pass

    for thing in (DetectionModel, Head):
        thing.__module__, thing.__qualname__ = name, thing.__name__
        setattr(sys.modules[name], thing.__name__, thing)
    DetectionModel.head_type = Head  # type: ignore[attr-defined]
    return DetectionModel


def pickled(model_type: Any, num_classes: int = 4) -> Any:
    model = model_type(num_classes)
    model.model[1] = model_type.head_type(num_classes)
    return model


@pytest.mark.parametrize(
    "classic_package", ["models.yolo", "yolov5.models.yolo", "ultralytics.nn.tasks"], indirect=True
)
def test_pickled_models_are_read(classic_package: Any, tmp_path: Path) -> None:
    model = pickled(classic_package).half()
    model.names = {1: "b", 0: "a", 2: "c", 3: "d"}
    torch.save({"epoch": 2, "model": model, "ema": None, "best_fitness": 0.5}, tmp_path / "best.pt")
    weights = load_weights(tmp_path / "best.pt")
    assert weights.class_names == ("a", "b", "c", "d")
    assert weights.num_classes == 4
    expected = {name: t.float() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    assert equal(weights.state_dict, expected)
    assert {t.dtype for t in weights.state_dict.values()} == {torch.float32, torch.int64}


def test_the_average_goes_before_the_live_weights(classic_package: Any, tmp_path: Path) -> None:
    live, average = pickled(classic_package), pickled(classic_package)
    torch.save({"model": live, "ema": average}, tmp_path / "last.pt")
    assert equal(load_weights(tmp_path / "last.pt").state_dict, average.state_dict())


def test_cached_grids_of_old_checkpoints_are_left_out(classic_package: Any, tmp_path: Path) -> None:
    model = pickled(classic_package)
    model.model[1].register_buffer("anchor_grid", torch.ones(2, 1, 3, 1, 1, 2))
    torch.save({"model": model}, tmp_path / "old.pt")
    state = load_weights(tmp_path / "old.pt").state_dict
    assert "model.1.anchors" in state
    assert "model.1.anchor_grid" not in state


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("wrapped", [False, True])
def test_plain_state_dicts_are_read(prefix: str, wrapped: bool, tmp_path: Path) -> None:
    state = Network().state_dict()
    content = {prefix + name: tensor for name, tensor in state.items()}
    torch.save({"model": content, "epoch": 1} if wrapped else content, tmp_path / "plain.pth")
    weights = load_weights(tmp_path / "plain.pth")
    assert (weights.num_classes, weights.class_names) == (4, None)
    assert equal(weights.state_dict, dict(state))


def test_safetensors_are_read(tmp_path: Path) -> None:
    state = Network(num_classes=7).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "w.safetensors")
    weights = load_weights(tmp_path / "w.safetensors")
    assert weights.num_classes == 7
    assert equal(weights.state_dict, dict(state))


@pytest.mark.parametrize("where", ["top", "hyper_parameters"])
def test_own_checkpoints_are_read(where: str, tmp_path: Path) -> None:
    state = Network(num_classes=2).state_dict()
    content: dict[str, Any] = {
        "state_dict": {f"network.{name}": t for name, t in state.items()} | {"criterion.x": torch.ones(1)},
        "hyper_parameters": {"architecture": "yolov5n", "image_size": 320},
        "pytorch-lightning_version": "2.6.6",
    }
    (content if where == "top" else content["hyper_parameters"])["class_names"] = ["cat", "dog"]
    torch.save(content, tmp_path / "best.ckpt")
    weights = load_weights(tmp_path / "best.ckpt")
    assert (weights.class_names, weights.image_size, weights.architecture) == (("cat", "dog"), 320, "yolov5n")
    assert equal(weights.state_dict, dict(state))
    for architecture, known in (('{"backbone": []}', '{"backbone": []}'), ("/tmp/model.yaml", None)):
        content["hyper_parameters"]["architecture"] = architecture
        torch.save(content, tmp_path / "best.ckpt")
        assert load_weights(tmp_path / "best.ckpt").architecture == known  # a path is not opened


def test_names_that_do_not_fit_the_head_are_not_believed(classic_package: Any, tmp_path: Path) -> None:
    model = pickled(classic_package, num_classes=3)
    model.names = ["a", "b"]
    torch.save({"model": model}, tmp_path / "w.pt")
    weights = load_weights(tmp_path / "w.pt")
    assert (weights.num_classes, weights.class_names) == (3, None)


def damaged_files(folder: Path) -> dict[str, Path]:
    torch.save(Network().state_dict(), folder / "whole.pt")
    save_file({"a": torch.ones(100)}, folder / "whole.safetensors")
    contents = {
        "cut.pt": (folder / "whole.pt").read_bytes()[:-400],
        "head.pt": (folder / "whole.pt").read_bytes()[:50],
        "empty.pt": b"",
        "text.pt": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "page.ckpt": b"<!DOCTYPE html><html>not found</html>",
        "cut.safetensors": (folder / "whole.safetensors").read_bytes()[:-20],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    torch.save({"epoch": 3}, folder / "no_weights.pt")
    torch.save([torch.ones(1)], folder / "list.pt")
    return {name: folder / name for name in [*contents, "no_weights.pt", "list.pt", "missing.pt"]}


@pytest.mark.parametrize(
    "name",
    [
        "cut.pt",
        "head.pt",
        "empty.pt",
        "text.pt",
        "page.ckpt",
        "cut.safetensors",
        "no_weights.pt",
        "list.pt",
        "missing.pt",
    ],
)
def test_what_is_no_checkpoint_gives_one_sentence_with_the_file(name: str, tmp_path: Path) -> None:
    path = damaged_files(tmp_path)[name]
    with pytest.raises(InputError) as caught:
        load_weights(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "weights_only=False" not in message


def test_every_tensor_is_transferred() -> None:
    source, target = Network(), Network()
    assert not equal(target.state_dict(), source.state_dict())
    report = transfer_weights(target, held(source.state_dict(), 4))
    assert equal(target.state_dict(), source.state_dict())
    assert str(report) == f"w.pt: {report.total} of {len(source.state_dict())} tensors loaded"


def test_another_number_of_classes_transfers_box_and_objectness_rows_only() -> None:
    source, target = Network(num_classes=4), Network(num_classes=2)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    report = transfer_weights(target, held(source.state_dict(), 4))
    after, given = target.state_dict(), source.state_dict()
    heads = [f"model.1.m.{level}.{kind}" for level in range(2) for kind in ("weight", "bias")]
    assert list(report.partial) == heads
    for name in heads:
        for anchor in range(3):
            for row in range(7):
                here = after[name][anchor * 7 + row]
                expected = given[name][anchor * 9 + row] if row < 5 else before[name][anchor * 7 + row]
                assert torch.equal(here, expected), (name, anchor, row)
    rest = [name for name in given if name not in heads]
    assert list(report.loaded) == rest
    assert all(torch.equal(after[name], given[name]) for name in rest)
    assert f"{len(rest)} of {len(given)} tensors loaded; 4 loaded without their class rows" in str(report)
    assert "model.1.m.0.weight" in str(report)


def test_a_head_of_another_kind_is_not_loaded_row_by_row() -> None:
    source, target = Network(num_classes=4), Network(num_classes=2)
    state = dict(source.state_dict())
    state["model.1.m.0.bias"] = torch.zeros(3 * (5 + 4 + 32))  # segmentation: masks follow the classes
    report = transfer_weights(target, held(state, 4))
    assert report.mismatched == ("model.1.m.0.bias",)


def test_the_report_names_what_was_not_loaded() -> None:
    source, target = Network(), Network()
    state = dict(source.state_dict())
    del state["model.0.1.bias"]
    state["model.0.2.bias"] = torch.zeros(5)
    state["model.9.weight"] = torch.zeros(1)
    report = transfer_weights(target, held(state, 4))
    assert (report.missing, report.mismatched, report.unused) == (
        ("model.0.1.bias",),
        ("model.0.2.bias",),
        ("model.9.weight",),
    )
    assert len(report.loaded) == report.total - 2
    for name in ("model.0.1.bias", "model.0.2.bias", "model.9.weight"):
        assert name in str(report)


def test_another_architecture_is_refused_and_nothing_is_copied() -> None:
    source, target = build_network("yolov5s", 80).state_dict(), build_network("yolov5n", 80)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(
        InputError, match=r"^w\.pt: holds a yolov5s .* yolov5n .*--model\.architecture yolov5s,"
    ):
        transfer_weights(target, held(source, 80))
    assert equal(before, target.state_dict())


def test_a_custom_size_is_not_called_by_an_official_name() -> None:
    source, target = build_network("yolov5s", 80).state_dict(), build_network("yolov5n", 80)
    deeper = {**source, "model.2.m.1.cv1.conv.weight": source["model.2.m.0.cv1.conv.weight"]}
    with pytest.raises(InputError, match=r"another architecture than yolov5n .*YAML"):
        transfer_weights(target, held(deeper, 80))


def test_a_stranger_is_refused() -> None:
    with pytest.raises(InputError, match=r"^w\.pt: is of another architecture .* \(0 of"):
        transfer_weights(Network(), held({"layer1.0.weight": torch.ones(2)}))


@pytest.mark.parametrize("name", ["yolov5n", "yolov5nu", "yolov5n6", "yolov5s"])
def test_architectures_are_told_by_their_tensors(name: str) -> None:
    assert identify_architecture(build_network(name, 3).state_dict()) == name


def test_other_networks_are_no_yolov5() -> None:
    assert identify_architecture({"model.0.conv.weight": torch.zeros(16, 3, 3, 3)}) is None
    assert identify_architecture({"fc.weight": torch.zeros(1)}) is None


def test_anchor_free_heads_with_other_classes_keep_their_own_class_layers() -> None:
    source, target = build_network("yolov5nu", 5), build_network("yolov5nu", 2)
    report = transfer_weights(target, held(dict(source.state_dict()), 5))
    assert set(report.mismatched) == {
        f"model.24.cv3.{level}.2.{kind}" for level in range(3) for kind in ("weight", "bias")
    }
    assert report.partial == report.missing == report.unused == ()


def test_class_count_of_an_anchor_free_head(tmp_path: Path) -> None:
    torch.save(build_network("yolov5nu", 5).state_dict(), tmp_path / "u.pt")
    assert load_weights(tmp_path / "u.pt").num_classes == 5


@pytest.mark.skipif(not OFFICIAL.is_file(), reason=f"needs the official file at {OFFICIAL}")
def test_the_official_file_loads_whole() -> None:
    weights = load_weights(OFFICIAL)
    assert weights.num_classes == 80
    assert weights.class_names is not None
    assert (weights.class_names[0], weights.class_names[79]) == ("person", "toothbrush")
    network = build_network("yolov5n", 80)
    report = transfer_weights(network, weights)
    assert str(report) == f"{OFFICIAL}: 349 of 349 tensors loaded"
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_872_157
    anchors = network.state_dict()["model.24.anchors"] * torch.tensor([8.0, 16.0, 32.0])[:, None, None]
    assert anchors[0].tolist() == [[10, 13], [16, 30], [33, 23]]
    assert anchors[2].tolist() == [[116, 90], [156, 198], [373, 326]]
    smaller = transfer_weights(build_network("yolov5n", 3), weights)
    assert (len(smaller.loaded), len(smaller.partial), smaller.total) == (343, 6, 349)
