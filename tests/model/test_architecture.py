"""Model YAMLs of strangers: nothing in them is executed, and what is not allowed is named."""

from __future__ import annotations

import contextlib
import datetime
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from ultralytics.nn.tasks import parse_model

from yolo_lightning.errors import InputError
from yolo_lightning.model.architecture import read_architecture
from yolo_lightning.model.blocks import MODEL_FILES
from yolo_lightning.model.network import build_network

OFFICIAL = MODEL_FILES.parent
EXAMPLE = Path(__file__).parents[2] / "benchmarks" / "gpu" / "toy.yaml"
TOUCH = "__import__('os').system('touch it_ran')"


class Touches:
    """Makes the marker file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch it_ran",)


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """File in the working directory that each attack makes; ``weights.pt`` makes it when it is loaded."""
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Touches()}, "weights.pt")
    return tmp_path / "it_ran"


def description(first: Any = None, **changes: Any) -> dict[str, Any]:
    """A small detector; ``first`` replaces its first layer."""
    return {
        "backbone": [first or [-1, 1, "Conv", [8, 3, 8]], [-1, 1, "Conv", [8, 3, 2]]],
        "head": [[[0, 1], 1, "Detect", ["nc"]]],
        **changes,
    }


def write(content: Any) -> str:
    path = Path("model.yaml")
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


def layer(name: Any, *arguments: Any) -> list[Any]:
    return [-1, 1, name, list(arguments)]


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)
LAYERS: dict[str, tuple[Any, str]] = {
    "a function that unpickles": (layer("torch_safe_load", "weights.pt"), "torch_safe_load"),
    "a class that loads weights": (layer("DetectionModel", "other.yaml"), "DetectionModel"),
    "a function of torch.nn": (layer("nn.factory_kwargs", {}), "nn.factory_kwargs"),
    "a module of Python": (layer("nn.init"), "nn.init"),
    "a class of torch": (layer("nn.Parameter", 1), "nn.Parameter"),
    "a name within a module": (layer("nn.modules.os.system", "touch it_ran"), "nn.modules.os.system"),
    "torchvision": (layer("torchvision.ops.Conv2dNormActivation", 3, 8), "torchvision.ops"),
    "a download": (layer("TorchVision", 512, "resnet18"), "TorchVision"),
    "builtins": (layer("__builtins__"), "__builtins__"),
    "the parser": (layer("parse_model", {}, 3), "parse_model"),
    "Python as an argument": (layer("Conv", TOUCH), "touch it_ran"),
    "Python in a list": (layer("Conv", f"[{TOUCH}]"), "touch it_ran"),
    "a variable of the parser": (layer("nn.Upsample", "ast"), "'ast'"),
    "a variable of a comprehension": (layer("nn.Upsample", "args"), "'args'"),
    "a mapping": (layer("Conv", {"a": 1}), "{'a': 1}"),
    "a mapping as text": (layer("Conv", "{1: 2}"), "{1: 2}"),
    "a date": (layer("Conv", [datetime.date(2026, 1, 1)]), "datetime"),
    "lists in lists": (layer("Conv", [[[[[8]]]]]), "layer 1 has [[["),
    "no Python": (layer("Conv", "a b"), "'a b'"),
    "deep text": (layer("Conv", "(" * 5000), "which is not allowed"),
    "no name": (layer(8), "layer 1 has 8,"),
    "a source that is text": ([TOUCH, 1, "Conv", [8]], "touch it_ran"),
    "repeats that are text": ([-1, TOUCH, "Conv", [8]], "touch it_ran"),
    "no layer": (TOUCH, "touch it_ran"),
    "arguments that are text": ([-1, 1, "Conv", TOUCH], "ouch it_ran"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_that_is_not_allowed_is_refused_by_file_and_number(name: str, marker: Path) -> None:
    row, named = LAYERS[name]
    inner = description(activation=f"{TOUCH} or nn.SiLU()")
    Path("other.yaml").write_text(yaml.safe_dump(inner))
    path = write(description(backbone=[layer("Conv", 8, 3, 8), row]))
    for read in (read_architecture, lambda path: build_network(path, 2)):
        with pytest.raises(
            InputError, match=r"^model\.yaml: layer 1 .*a name of a torch.nn module"
        ) as caught:
            read(path)
        assert named in str(caught.value)
    assert not marker.exists()


ACTIVATIONS = [
    TOUCH,
    f"nn.ReLU({TOUCH})",
    f"nn.ReLU(inplace={TOUCH})",
    f"nn.ReLU() if {TOUCH} else nn.SiLU()",
    f"nn.ReLU()\n{TOUCH}",
    "nn.ReLU(exit)",
    "nn.ReLU(**{})",
    "nn.ReLU(True, )()",
    "nn.Linear(1, 2)",
    "nn.Module()",
    "nn.Tensor()",
    "nn.Threshold(0.1)",
    "nn.LeakyReLU(b'1')",
    "nn.LeakyReLU(1-2j)",
    "nn.NoSuchActivation()",
    "nn.functional.relu",
    "F.relu",
    "SiLU",
    5,
]


@pytest.mark.parametrize("text", ACTIVATIONS)
def test_an_activation_that_is_not_allowed_is_refused_by_its_text(text: Any, marker: Path) -> None:
    path = write(description(activation=text))
    for read in (read_architecture, lambda path: build_network(path, 2)):
        with pytest.raises(
            InputError, match=r"^model\.yaml: activation .* is not allowed; .*nn\.LeakyReLU\(0\.1\)"
        ):
            read(path)
    assert not marker.exists()


def test_a_tag_of_the_file_is_not_followed(marker: Path) -> None:
    path = write(f"backbone: !!python/object/apply:os.system ['touch {marker}']\nhead: []\n")
    with pytest.raises(InputError, match=r"^model\.yaml: not valid YAML"):
        build_network(path, 2)
    assert not marker.exists()


def test_a_file_that_is_no_text_or_too_deep_is_refused(marker: Path) -> None:
    for content in (b"\xff\xfe\x00", b"[" * 5000):
        Path("model.yaml").write_bytes(content)
        with pytest.raises(InputError, match=r"^model\.yaml: not valid YAML"):
            build_network("model.yaml", 2)


@pytest.mark.parametrize(
    ("first", "changes"),
    [
        (LAYERS["a function that unpickles"][0], {}),
        (None, {"activation": f"{TOUCH} or torch.nn.SiLU()"}),
    ],
)
def test_the_attacks_are_real(first: Any, changes: dict[str, Any], marker: Path) -> None:
    """The parser alone does what the files ask for."""
    with contextlib.suppress(Exception):  # after the attack, what it made is no layer
        parse_model({**description(first, **changes), "nc": 2}, ch=3, verbose=False)
    assert marker.exists()


@pytest.mark.parametrize(
    ("text", "kind", "shown"),
    [
        ("nn.ReLU()", nn.ReLU, "inplace=True"),
        ("torch.nn.LeakyReLU(0.1)", nn.LeakyReLU, "negative_slope=0.1"),
        ("nn.LeakyReLU(negative_slope=2e-1, inplace=True)", nn.LeakyReLU, "negative_slope=0.2"),
        ("nn.Hardtanh(-1, 2.5)", nn.Hardtanh, "min_val=-1, max_val=2.5"),
        ("nn.GELU(approximate='tanh')", nn.GELU, "approximate='tanh'"),
        ("nn.Identity()", nn.Identity, ""),
    ],
)
def test_activations_of_torch_reach_the_network(
    text: str, kind: type[nn.Module], shown: str, marker: Path
) -> None:
    network = build_network(write(description(activation=text)), 2)
    activation = network.model[0].act
    assert isinstance(activation, kind)
    assert shown in repr(activation)
    assert isinstance(build_network("yolov5n", 2).model[0].act, nn.SiLU)


def test_a_network_that_cannot_be_built_leaves_the_activation_alone(marker: Path) -> None:
    with pytest.raises(InputError, match="cannot be built"):
        build_network(write(description(layer("Conv", "nearest"), activation="nn.ReLU()")), 2)
    assert isinstance(build_network("yolov5n", 2).model[0].act, nn.SiLU)


def test_plain_arguments_are_allowed(marker: Path) -> None:
    rows = [
        layer("Conv", 8, "3", "1", None, 1, 1, True),
        layer("nn.Upsample", "None", 2, "nearest"),
        layer("nn.Upsample", "[64, 64]", None, "bilinear", True),
        layer("nn.MaxPool2d", [2, 2], 2),
        layer("nn.Identity"),
    ]
    path = write(description(backbone=rows, head=[[[4], 1, "Detect", ["nc", "anchors"]]]))
    assert build_network(path, 2).strides == (8,)


FILES = [EXAMPLE, *sorted(OFFICIAL.rglob("*.yaml"))]
DETECTORS = [file for file in FILES if ", Detect, " in file.read_text()]


@pytest.mark.parametrize("file", DETECTORS, ids=lambda file: file.name)
def test_official_files_and_the_example_are_allowed(file: Path) -> None:
    read_architecture(str(file))


def test_there_are_official_files() -> None:
    assert len(DETECTORS) > 15
    assert {"toy.yaml", "yolov5.yaml", "yolov5-p6.yaml", "yolov8.yaml"} <= {file.name for file in DETECTORS}


def alias_bomb() -> str:
    levels = [f"  l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(["bomb:", "  l0: &l0 [x, x, x]", *levels, yaml.safe_dump(description())])


BOMBS: dict[str, tuple[Any, str]] = {
    "repeats": (description([-1, 10**9, "nn.Identity", []]), "layer 0 has 1000000000, which is not allowed"),
    "repeats within a block": (
        description([-1, 1000, "C3", [8]], depth_multiple=9),
        "more than 50,000 modules",
    ),
    "depth without parameters": (
        description([-1, 9, "nn.Identity", []], depth_multiple=1e9),
        "depth_multiple",
    ),
    "depth in scales": (
        description([-1, 9, "nn.Identity", []], scales={"n": [1e9, 1, 64]}, scale="n"),
        "scales",
    ),
    "a million layers": (
        description(backbone=[[-1, 1, "Conv", [8, 1, 1]]] * 100_000),
        "more than 50,000 modules",
    ),
    "channels": (description([-1, 1, "Conv", [10**9, 3, 8]]), "more than 2,147,483,648 parameters"),
    "channels without end": (description([-1, 1, "Conv", [10**30, 3, 8]]), "cannot be built"),
    "width": (description(width_multiple=1e9), "more than 2,147,483,648 parameters"),
    "a kernel": (description([-1, 1, "Conv", [8, 100_001, 8]]), "more than 2,147,483,648 parameters"),
    "an image": (description([-1, 1, "nn.Upsample", ["None", 10_000, "nearest"]]), "values in the maps"),
    "padding": (description([-1, 1, "nn.ZeroPad2d", [10**6]]), "values in the maps"),
    "a list in itself": (
        description(layer("Conv", ENDLESS)),
        "its aliases stand for more than a memory holds",
    ),
    "aliases": (alias_bomb(), "its aliases stand for more than a memory holds"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_number_in_a_file_takes_neither_memory_nor_time(name: str, marker: Path) -> None:
    content, named = BOMBS[name]
    path = write(content)
    with pytest.raises(InputError, match=rf"^model\.yaml: .*{named}"):
        build_network(path, 2)


def test_a_yaml_builds_the_network_that_its_numbers_name(marker: Path) -> None:
    """Building it first without memory takes nothing from the random numbers."""
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(build_network("yolov5n" if not networks else write(official_nano()), 2))
    first, second = (network.state_dict() for network in networks)
    assert all(torch.equal(first[name], second[name]) for name in first) and first.keys() == second.keys()


def official_nano() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((MODEL_FILES / "yolov5.yaml").read_text())
    anchors = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]
    return {**content, "scale": "n", "anchors": anchors}
