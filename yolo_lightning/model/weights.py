"""Loading of weights into a network from official, fine-tuned and own checkpoints."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import InputError
from .architecture import is_self_contained, name_or_content
from .unpickle import Inert, is_stored, module_tensors, read_without_executing

_WRAPPER_PREFIX = re.compile(r"^(?:(?:module|_orig_mod)\.)+")  # DataParallel, torch.compile
_OWN_PREFIX = "network."  # where the LightningModule keeps the network
_CACHES = (".anchor_grid", ".grid")  # of the classic Detect; they follow from anchors and image size

METADATA_KEY = "yolo_lightning"
"""Key of the metadata of a ``.safetensors`` file, for what :class:`LoadedWeights` has besides tensors."""

_SIZES = {(16, 1): "n", (32, 1): "s", (48, 2): "m", (64, 3): "l", (80, 4): "x"}
"""Channels of the first convolution and bottlenecks of the first C3 (layer 2) -> size."""


@dataclass(frozen=True)
class LoadedWeights:
    """Weights of a file."""

    path: Path
    state_dict: dict[str, Tensor]  # on the CPU, by classic name (model.0.conv.weight); float32 or integers
    class_names: tuple[str, ...] | None  # name of each class; None if the file has another number of names
    num_classes: int | None  # number of classes by the shape of the head; None for an unknown head
    architecture: str | None = None  # name, or content of the model YAML; None if the file does not tell
    image_size: int | list[int] | None = None  # side of the training images in px, or [height, width]
    category_ids: tuple[int, ...] | None = None  # COCO id of each class; None if the file does not tell
    score_thresholds: tuple[float, ...] | None = None  # of the best F1 of each class; None if unknown


@dataclass(frozen=True)
class TransferReport:
    """Names of tensors of a network and a file, by the outcome of the transfer."""

    path: Path
    loaded: tuple[str, ...]  # copied whole
    partial: tuple[str, ...]  # copied without class rows, because the number of classes differs
    mismatched: tuple[str, ...]  # not copied, because the shape differs
    missing: tuple[str, ...]  # not in the file
    kept: tuple[str, ...]  # not copied, because the network's own anchors hold
    unused: tuple[str, ...]  # only in the file

    @property
    def total(self) -> int:
        """Number of tensors of the network."""
        groups = (self.loaded, self.partial, self.mismatched, self.missing, self.kept)
        return sum(map(len, groups))

    def __str__(self) -> str:
        parts = [f"{self.path}: {len(self.loaded)} of {self.total} tensors loaded"]
        for names, meaning in (
            (self.partial, "loaded without their class rows (the number of classes differs)"),
            (self.mismatched, "not loaded (the shape differs)"),
            (self.missing, "not in the file"),
            (self.kept, "not loaded (the YAML of the model gives the anchors)"),
            (self.unused, "only in the file"),
        ):
            if names:
                parts.append(f"{len(names)} {meaning}: {_some(names)}")
        return "; ".join(parts)


def load_weights(path: str | Path) -> LoadedWeights:
    """Read a checkpoint without executing anything in it.

    Args:
        path: a ``.pt`` of ultralytics/yolov5, of its package ``yolov5`` or of ultralytics (its EMA weights if
            it has them), a plain state dict, a ``.safetensors`` file, or a checkpoint of yolo-lightning.

    Raises:
        InputError: the file does not exist, is damaged, holds no weights, or asks for a name that is not on
            the allow-list.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path}: is not a file; set model.weights to a .pt, .ckpt or .safetensors file (the command "
            "line also takes a name, such as yolov5n, whose official weights it fetches)"
        )
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            return _describe(path, load_file(path), facts)
        return _interpret(path, read_without_executing(path))
    except InputError:
        raise
    except Exception as error:  # a damaged or hostile file can fail in any way
        raise InputError(
            f"{path}: cannot be read as a checkpoint ({type(error).__name__}): it is damaged or of another "
            "format; fetch it again, save its state dict with a recent torch.save or as .safetensors, or "
            "open it with Detector if it is an exported model"
        ) from error


def transfer_weights(
    network: nn.Module, weights: LoadedWeights, keep_anchors: bool = False
) -> TransferReport:
    """Copy every tensor that fits by name and shape into a network.

    If a classic head has another number of classes, its box and objectness rows are copied and its class rows
    keep their values.

    Args:
        network: network with classic names in its ``state_dict`` (``model.0.conv.weight``).
        weights: from :func:`load_weights`.
        keep_anchors: leave the anchors of the network as they are.

    Raises:
        InputError: fewer than half of the tensors fit, so the file is of another architecture. Nothing is
            copied.
    """
    target, source = network.state_dict(), weights.state_dict
    copies: list[tuple[Tensor, Tensor]] = []
    groups: dict[str, list[str]] = {"loaded": [], "partial": [], "mismatched": [], "missing": [], "kept": []}
    for name, tensor in target.items():
        found = source.get(name)
        if keep_anchors and name.endswith(".anchors"):
            group = "kept"
        elif found is None:
            group = "missing"
        elif found.shape == tensor.shape:
            group = "loaded"
            copies.append((tensor, found))
        elif (rows := _box_rows(name, tensor, found, target, weights.num_classes)) is not None:
            group = "partial"
            copies.append(rows)
        else:
            group = "mismatched"
        groups[group].append(name)
    report = TransferReport(
        weights.path,
        **{group: tuple(names) for group, names in groups.items()},
        unused=tuple(name for name in source if name not in target),
    )
    _refuse_other_architecture(report, target, weights)
    with torch.no_grad():
        for destination, values in copies:
            destination.copy_(values)
    return report


def identify_architecture(state_dict: Mapping[str, Tensor]) -> str | None:
    """Name of the YOLOv5 with these tensors, such as ``yolov5s6`` or ``yolov5nu``; None for other networks.

    The first convolution (6x6 since v6.0) and the first C3 give the size, the number of layers P6, and a
    distribution layer the u models.
    """
    stem = state_dict.get("model.0.conv.weight")
    bottlenecks = {name.split(".")[3] for name in state_dict if name.startswith("model.2.m.")}
    size = None if stem is None else _SIZES.get((stem.shape[0], len(bottlenecks)))
    if stem is None or stem.shape[1:] != (3, 6, 6) or size is None:
        return None
    layers = [int(match[1]) for name in state_dict if (match := re.match(r"model\.(\d+)\.", name))]
    if max(layers) not in {24, 33}:
        return None
    p6 = "6" if max(layers) == 33 else ""
    anchor_free = "u" if any(".dfl." in name for name in state_dict) else ""
    return f"yolov5{size}{p6}{anchor_free}"


def _interpret(path: Path, content: Any) -> LoadedWeights:
    """Find the weights in the known kinds of checkpoints."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        settings = content.get("hyper_parameters")
        known = (settings if isinstance(settings, dict) else {}) | content
        facts = {"names": known.get("class_names"), "image_size": known.get("image_size")}
        architecture = known.get("architecture")
        if isinstance(architecture, str) and is_self_contained(architecture):  # a path is not opened
            facts["architecture"] = architecture
        return _describe(path, content["state_dict"], facts)
    holder, settings = content, None
    if isinstance(content, dict):
        holder = next((content[key] for key in ("ema", "model") if content.get(key) is not None), content)
        settings = content.get("opt") or content.get("train_args")
    if isinstance(holder, Inert) and hasattr(holder, "_modules"):
        tensors, fields = dict(module_tensors(holder)), vars(holder)
        facts = {"names": fields.get("names")}
        if isinstance(settings, dict):
            facts["image_size"] = settings.get("imgsz")
        if isinstance(description := fields.get("yaml"), dict):
            facts["architecture"] = name_or_content(description, identify_architecture(tensors))
        return _describe(path, tensors, facts)
    if isinstance(holder, dict) and holder and all(isinstance(value, Tensor) for value in holder.values()):
        return _describe(path, holder)
    raise InputError(
        f"{path}: holds no weights (neither a model nor a state dict under 'ema', 'model' or 'state_dict'); "
        "set model.weights to a checkpoint of a trained model"
    )


def _describe(path: Path, raw: Mapping[str, Any], facts: Mapping[str, Any] | None = None) -> LoadedWeights:
    """Bring names and dtypes to one form, and count the classes; ``facts`` are as the file has them."""
    if not is_stored(raw):
        raise InputError(
            f"{path}: has a tensor that is not stored whole; save the weights with a plain torch.save"
        )
    own = {name: value for name, value in raw.items() if name.startswith(_OWN_PREFIX)}
    state: dict[str, Tensor] = {}
    for name, value in (own or raw).items():
        name = _WRAPPER_PREFIX.sub("", name.removeprefix(_OWN_PREFIX), count=1)
        if not name.endswith(_CACHES):
            state[name] = value.detach().float() if value.is_floating_point() else value.detach()
    num_classes = _count_classes(state)
    facts = facts or {}
    names, architecture, size = (facts.get(key) for key in ("names", "architecture", "image_size"))
    if isinstance(names, dict):  # {0: "person", 1: "bicycle", ..}
        names = [names[key] for key in sorted(names, key=int)]
    class_names = tuple(str(name) for name in names) if isinstance(names, list | tuple) else None
    if class_names is not None and num_classes is not None and len(class_names) != num_classes:
        class_names = None
    return LoadedWeights(
        path,
        state,
        class_names,
        num_classes,
        architecture if isinstance(architecture, str) else None,
        _whole_strides(size),
        tuple(map(int, facts.get("category_ids") or ())) or None,
        tuple(map(float, facts.get("score_thresholds") or ())) or None,
    )


def _whole_strides(size: Any) -> int | list[int] | None:
    """The next multiples of 32, with which the classic programs train; None if it is no size."""
    if isinstance(size, list) and len(size) == 2 and all(type(side) is int for side in size):
        return [-(-side // 32) * 32 for side in size]
    return -(-size // 32) * 32 if isinstance(size, int) else None


def _count_classes(state: Mapping[str, Tensor]) -> int | None:
    for name, tensor in state.items():
        if name.endswith(".anchors") and tensor.ndim == 3:  # (L, A, 2)
            weight = state.get(name.removesuffix("anchors") + "m.0.weight")  # (A*(5+C), in, 1, 1)
            return None if weight is None else weight.shape[0] // tensor.shape[1] - 5
        if re.search(r"\.cv3\.0\.2\.weight$", name):  # (C, in, 1, 1), the last layer of a class branch
            return tensor.shape[0]
    return None


def _box_rows(
    name: str, target: Tensor, source: Tensor, network: Mapping[str, Tensor], source_classes: int | None
) -> tuple[Tensor, Tensor] | None:
    """Views of the box and objectness rows (A, 5, ..) in network and file; None for other tensors."""
    match = re.fullmatch(r"(.+\.)m\.\d+\.(?:weight|bias)", name)
    anchors = network.get(f"{match[1]}anchors") if match else None
    if anchors is None or source_classes is None or source.shape[1:] != target.shape[1:]:
        return None
    per_cell = anchors.shape[1]
    if source.shape[0] != per_cell * (5 + source_classes):
        return None
    rows_of = (per_cell, -1)  # (A*(5+C), ..) -> (A, 5+C, ..)
    return target.unflatten(0, rows_of)[:, :5], source.unflatten(0, rows_of)[:, :5]


def _refuse_other_architecture(
    report: TransferReport, target: Mapping[str, Tensor], weights: LoadedWeights
) -> None:
    counted = [name for name in target if not name.endswith("num_batches_tracked")]  # fits everywhere
    fitting = len(set(counted) & {*report.loaded, *report.partial})
    if 2 * fitting >= len(counted):
        return
    share = f"{fitting} of {len(counted)} tensors fit"
    found, wanted = identify_architecture(weights.state_dict), identify_architecture(target)
    if found is None or found == wanted:
        raise InputError(
            f"{report.path}: is of another architecture than {wanted or 'this model'} ({share}); "
            "set --model.architecture to the name or the YAML of the model that it was trained with"
        )
    raise InputError(
        f"{report.path}: holds a {found} and the model is {wanted or 'another'} ({share}); "
        f"use --model.architecture {found}, or weights of {wanted or 'that model'}"
    )


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
