"""Architectures: the names of models, and model YAMLs, read without executing anything in them.

The parser of ultralytics looks up layers among all names of its module, functions that load pickles included,
and evaluates the activation as Python. So a YAML is checked before the parser gets it: layers are modules of
torch.nn and ultralytics, arguments are plain values, and the activation is built here.
"""

from __future__ import annotations

import ast
import json
import re
import reprlib
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from ..errors import InputError
from ..system.text import has_more_values
from .blocks import MODEL_FILES, PARSER_VARIABLES, is_block
from .heads import HEADS, P5_ANCHORS_PX, P6_ANCHORS_PX

_NAME = re.compile(r"yolov5([nsmlx])(6?)(u?)")
_ACTIVATION = re.compile(r"(?:torch\.)?nn\.(\w+)\(([\w=., '\"-]*)\)")
_ACTIVATION_MODULES = (nn.modules.activation.__name__, nn.Identity.__module__)
_WORD = re.compile(r"[A-Za-z]\w*")
NAMES = (
    "yolov5n|s|m|l|x (classic), yolov5n6|s6|m6|l6|x6 (classic P6), yolov5nu|su|mu|lu|xu (anchor-free), "
    "or the path of a YOLOv5-style YAML"
)
_MOST_REPEATS = 1000
"""Most repeats of a layer, and the largest depth."""
_KEYS = (
    *("backbone", "head", "anchors", "activation", "nc", "scale", "scales", "depth_multiple"),
    *("width_multiple", "channel_multiple", "end2end", "reg_max", "kpt_shape"),
)
"""Keys of a model YAML that the parser or this file reads."""


def is_name(architecture: str) -> bool:
    """Tell the name of a model from a path and from the content of a YAML."""
    return _NAME.fullmatch(architecture) is not None


def is_self_contained(architecture: str) -> bool:
    """Tell the name of a model, and the content of a YAML, from a path."""
    return architecture.startswith("{") or is_name(architecture)


def self_contained(architecture: str) -> str:
    """Replace the path of a model YAML by its content, as JSON in one line, which a checkpoint can hold.

    Raises:
        InputError: as :func:`read_architecture`.
    """
    description, *_ = read_architecture(architecture)
    return architecture if is_self_contained(architecture) else name_or_content(description)


def name_or_content(description: dict[str, Any], name: str | None = None) -> str:
    """``name`` if its model has the layers of a model YAML, otherwise the content of the YAML as JSON."""
    if name and _layers(description) == _layers(read_architecture(name)[0]):
        return name
    return json.dumps({key: description[key] for key in _KEYS if key in description}, default=str)


def _layers(description: dict[str, Any]) -> list[Any]:
    """Rows and activation, to be compared; the arguments of the head are left out."""
    rows = [*description["backbone"], *description["head"]]
    plain = [[*row[:3], ["None" if value is None else value for value in row[3]]] for row in rows[:-1]]
    return [*plain, rows[-1][:3], description.get("activation")]


def short_name(architecture: str) -> str:
    """Name of a model for messages."""
    return "model of a YAML" if architecture.startswith("{") else architecture


def read_architecture(architecture: str) -> tuple[dict[str, Any], Tensor | int | None, nn.Module | None]:
    """Content of a model YAML, checked; its anchors and its activation, if it has them.

    ``architecture`` is a name, a path, or the content of a YAML from :func:`self_contained`. The anchors are
    (L, A, 2) in px, or the number A if the data shall give them. Layers count from the first, apart from -1.

    Raises:
        InputError: the name is unknown, or the YAML does not describe a YOLOv5 detector, or asks for a layer,
            an argument or an activation that is not allowed.
    """
    name = _NAME.fullmatch(architecture)
    if name:
        size, p6, anchor_free = name.groups()
        file = MODEL_FILES / ("yolov5-p6.yaml" if p6 else "yolov5.yaml")
        anchors = None if anchor_free else torch.tensor(P6_ANCHORS_PX if p6 else P5_ANCHORS_PX).float()
        return {**yaml.safe_load(file.read_text()), "scale": size}, anchors, None
    is_content = architecture.startswith("{")
    path = Path("model.architecture" if is_content else architecture)
    if not is_content and path.suffix not in {".yaml", ".yml"}:
        raise InputError(f"model.architecture {architecture!r} is not known; use {NAMES}")
    if not is_content and not path.is_file():
        raise InputError(f"model.architecture {architecture}: there is no such file; use {NAMES}")
    try:
        text = architecture if is_content else path.read_text()
        description = json.loads(text) if is_content else yaml.safe_load(text)
        if has_more_values(description, len(text)):
            raise ValueError("its aliases stand for more than a memory holds")
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{path}: not valid YAML ({' '.join(str(error).split())}); correct the file"
        ) from error
    _check_layers(path, description)
    description |= _count_from_the_first(path, description)
    return description, _read_anchors(path, description.get("anchors")), _read_activation(path, description)


def _check_layers(path: Path, description: Any) -> None:
    """Refuse descriptions of other networks, and layers that are not allowed."""
    for key in ("backbone", "head"):
        if not isinstance(description, dict) or not isinstance(description.get(key), list):
            raise InputError(
                f"{path}: has no list {key!r}; a model YAML needs 'backbone' and 'head', "
                f"like {MODEL_FILES / 'yolov5.yaml'}"
            )
    _check_depths(path, description)
    last = description["head"][-1:]
    row = last[0] if last and isinstance(last[0], list) else []
    if not (len(row) == 4 and isinstance(row[0], list) and row[2] in tuple(HEADS)):
        raise InputError(
            f"{path}: the last row of 'head' must be a {' or '.join(HEADS)}, "
            "like [[17, 20, 23], 1, Detect, [nc]]"
        )
    rows = [*description["backbone"], *description["head"]]
    for number, row in enumerate(rows):
        if wrong := _not_allowed(row, is_head=number == len(rows) - 1):
            shown = repr(wrong[0]) if isinstance(wrong[0], str) else reprlib.repr(wrong[0])
            raise InputError(
                f"{path}: layer {number} has {shown}, which is not allowed; a layer is "
                "[from, repeats, name, arguments]: a name of a torch.nn module (nn.Upsample) or of an "
                "ultralytics block (Conv, C3), and as arguments numbers, words, true, false, None or lists"
            )


def _count_from_the_first(path: Path, description: dict[str, Any]) -> dict[str, list[Any]]:
    """Backbone and head, whose layers read others by number; -1 stays, because the first reads the image."""

    def absolute(source: int, number: int) -> int:
        found = int(source) if source >= 0 else number + int(source)
        if source == -1 or 0 <= found < number:
            return -1 if source == -1 else found
        raise InputError(
            f"{path}: layer {number} reads layer {source}; a layer can read those before it: "
            "0 is the first, -1 the one before, -2 the one before that"
        )

    first = len(description["backbone"])
    counted: dict[str, list[Any]] = {}
    for key, start in (("backbone", 0), ("head", first)):
        counted[key] = []
        for number, (sources, *rest) in enumerate(description[key], start):
            many = isinstance(sources, list)
            found = [absolute(one, number) for one in (sources if many else [sources])]
            counted[key].append([found if many else found[0], *rest])
    return counted


def _check_depths(path: Path, description: dict[str, Any]) -> None:
    """Refuse to multiply layers without end; ``scales`` has a list of depth, width and channels a size."""
    scales = description.get("scales")
    sizes = scales.values() if isinstance(scales, dict) else ()
    for depth in (
        description.get("depth_multiple"),
        *(row[0] for row in sizes if isinstance(row, list) and row),
    ):
        if isinstance(depth, int | float) and not depth <= _MOST_REPEATS:
            raise InputError(
                f"{path}: depth_multiple or scales has the depth {depth}; use at most {_MOST_REPEATS}"
            )


def _not_allowed(row: Any, is_head: bool) -> list[Any]:
    """Parts of a layer that are not allowed. The parser does not get the head."""
    if not (isinstance(row, list) and len(row) == 4 and isinstance(row[3], list)):
        return [row]
    sources, repeats, name, arguments = row
    numbers = [repeats, *(sources if isinstance(sources, list) else [sources])]
    wrong = [n for n in numbers if not (isinstance(n, int) or (isinstance(n, float) and n.is_integer()))]
    if not wrong and repeats > _MOST_REPEATS:
        wrong.append(repeats)
    if is_head:
        return wrong
    if not (isinstance(name, str) and is_block(name)):
        wrong.append(name)
    return wrong + [value for value in arguments if not _is_argument(value)]


def _is_argument(value: Any) -> bool:
    """True for plain values, and for text that the parser leaves as it is or reads as a plain value."""
    if not isinstance(value, str):
        return _is_plain(value)
    if _WORD.fullmatch(value):
        return value == "nc" or value not in PARSER_VARIABLES
    try:
        return _is_plain(ast.literal_eval(value))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


def _is_plain(value: Any, depth: int = 3) -> bool:
    if isinstance(value, list | tuple):  # no block takes lists deeper than that
        return depth > 0 and all(_is_plain(one, depth - 1) for one in value)
    return value is None or isinstance(value, int | float | str)


def _read_activation(path: Path, description: dict[str, Any]) -> nn.Module | None:
    text = description.get("activation")
    if text is None:
        return None
    try:
        name, arguments = _ACTIVATION.fullmatch(str(text)).groups()  # type: ignore[union-attr]
        kind = nn.Identity if name == "Identity" else vars(nn.modules.activation)[name]
        if not issubclass(kind, nn.Module) or kind.__module__ not in _ACTIVATION_MODULES:
            raise TypeError(f"{name} is no activation")
        parts = [part.rpartition("=") for part in arguments.split(",") if part.strip()]
        values = [(option.strip(), ast.literal_eval(value.strip())) for option, _, value in parts]
        if not all(_is_plain(value) for _, value in values):
            raise TypeError("an argument is no plain value")
        positional = [value for option, value in values if not option]
        activation: nn.Module = kind(*positional, **{option: value for option, value in values if option})
    except Exception as error:
        raise InputError(
            f"{path}: activation {text!r} is not allowed; use an activation of torch.nn with plain "
            "arguments, of the form nn.LeakyReLU(0.1)"
        ) from error
    return activation


def _read_anchors(path: Path, anchors: Any) -> Tensor | int | None:
    if anchors is None or (type(anchors) is int and anchors > 0):
        return anchors
    try:
        return torch.tensor(anchors, dtype=torch.float32).reshape(len(anchors), -1, 2)  # (L, A, 2)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{path}: anchors must be one row of widths and heights in px a level, like "
            "[10,13, 16,30, 33,23], or the number of anchors a level"
        ) from error
