"""Export formats: the table of them, their options, and what each is given to write."""

from __future__ import annotations

import copy
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..data.image_size import Size, as_option
from ..errors import InputError
from ..inference.trained_model import ModelFacts, load_network
from ..model.architecture import self_contained, short_name
from ..model.heads import Layout
from ..model.network import DetectionNetwork
from ..system.environment import git_commit, package_version
from .suppression import suppress


@dataclass(frozen=True)
class ExportOptions:
    """How a model is exported.

    Args:
        image_size: Height and width of the input in px; an example of them if ``dynamic``.
        batch_size: Images of a call; an example if ``dynamic``.
        dynamic: Leave batch and size open; with ``nms`` the size alone.
        half: Weights in half precision. Input and output stay float32.
        int8: Convolutions in 8-bit integers, with ranges measured on ``calibration``.
        calibration: uint8 (N, 3, H, W), letterboxed images, N a multiple of the batch; needed for ``int8``.
        nms: Suppress overlapping boxes within the model.
        score_threshold: With ``nms``, score above which a box is a detection, 0..1.
        iou_threshold: With ``nms``, greatest IoU of two detections of one class, 0..1.
        max_detections: With ``nms``, rows of the output for an image.
        opset: Version of the ONNX operators.
    """

    image_size: Size
    batch_size: int = 1
    dynamic: bool = False
    half: bool = False
    int8: bool = False
    calibration: Tensor | None = None
    nms: bool = False
    score_threshold: float = 0.25
    iou_threshold: float = 0.45
    max_detections: int = 300
    opset: int = 18

    def example(self) -> Tensor:
        """Images of the exported shape, float32 (B, 3, H, W); two at least if the batch is open."""
        # torch.export takes a dimension of one for a constant.
        batch = max(2, self.batch_size) if self.dynamic and not self.nms else self.batch_size
        return torch.rand(batch, 3, *self.image_size, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class ExportSource:
    """A trained model that is exported.

    Args:
        network: The network with its weights, in evaluation mode on the CPU.
        facts: What is known of it.
        architecture: Its name, or the path of its YAML.
    """

    network: DetectionNetwork
    facts: ModelFacts
    architecture: str


def load_source(path: str | Path, architecture: str | None = None) -> ExportSource:
    """Read a checkpoint or weights to export, see ``inference.trained_model.load_network``."""
    network, facts, name = load_network(path, architecture)
    return ExportSource(network.eval().requires_grad_(False), facts, name)


class ExportedNetwork(nn.Module):
    """Network with its decoding, and suppression if asked for: images in, one tensor out.

    Args:
        network: The network, in evaluation mode.
        options: ``half`` and ``nms`` with its thresholds are used.
    """

    def __init__(self, network: DetectionNetwork, options: ExportOptions) -> None:
        super().__init__()
        self.network = network
        self.options = options

    def forward(self, images: Tensor) -> Tensor:
        """Detections of images, float32.

        Args:
            images: float32 (B, 3, H, W), RGB, 0..1, letterboxed.

        Returns:
            ``model.heads.Head.export_rows``; with NMS (B, max_detections, 6): x1, y1, x2, y2 in px, score,
            class, best first, zero where there are fewer.
        """
        images = images.half() if self.options.half else images
        maps = self.network(images)
        if not self.options.nms:
            return self.network.head.export_rows(maps)
        boxes, scores = self.network.head.decode(maps)
        options = self.options
        thresholds = options.score_threshold, options.iou_threshold
        rows = [
            suppress(*one, *thresholds, options.max_detections) for one in zip(boxes, scores, strict=True)
        ]
        return torch.stack(rows)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Hide warnings of converters, such as the tracer's about sizes that are constants on purpose."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def build_module(source: ExportSource, options: ExportOptions) -> ExportedNetwork:
    """The module that is exported; half precision takes a copy of the network."""
    network = copy.deepcopy(source.network).half() if options.half else source.network
    return ExportedNetwork(network, options).eval()


def metadata(source: ExportSource, options: ExportOptions) -> dict[str, Any]:
    """Facts that travel in the file, as plain values.

    ``names``, ``stride``, ``imgsz``, ``batch``, ``task`` and ``args`` are what ultralytics/yolov5 and
    ultralytics look for; the others are ours.
    """
    facts = source.facts
    return {
        "description": "YOLOv5 exported by yolo-lightning",
        "task": "detect",
        "names": dict(enumerate(facts.class_names)),
        "stride": facts.stride,
        "imgsz": list(options.image_size),
        "batch": options.batch_size,
        "channels": 3,
        "args": {"dynamic": options.dynamic, "nms": options.nms, "half": options.half, "int8": options.int8},
        "layout": "detections" if options.nms else source.network.head.layout,
        "category_ids": list(facts.category_ids) if facts.category_ids else None,
        "image_size": as_option(facts.image_size),
        "score_thresholds": list(facts.score_thresholds) if facts.score_thresholds else None,
        "architecture": self_contained(source.architecture),
        "version": package_version("yolo-lightning"),
        "commit": git_commit(),
    }


class WritesModel(Protocol):
    """The function ``write`` of a format's module."""

    def __call__(self, source: ExportSource, path: Path, options: ExportOptions) -> None:
        """Write a model to a file or folder that does not exist yet.

        Raises:
            InputError: This model or an option cannot be written in this format.
        """


@dataclass(frozen=True)
class Format:
    """An export format, whose module is imported when it is used.

    Args:
        module: Module of this folder with a function ``write``, see :class:`WritesModel`.
        suffix: What the name of the weights gets: ``best`` becomes ``best.onnx``.
        extra: Extra of pip with its libraries; None if it needs none.
        libraries: Names under which what is needed of them is imported.
        options: Options among dynamic, half, int8 and nms that it can carry out.
        is_runnable: ``inference.runtimes.open_model`` reads what it writes.
        layout: Layout of the only heads that it can have; None: any.
    """

    module: str
    suffix: str
    extra: str | None
    libraries: tuple[str, ...]
    options: frozenset[str]
    is_runnable: bool = True
    layout: Layout | None = None

    def check(self, source: ExportSource) -> None:
        """Refuse a model with a head that the format cannot have.

        Raises:
            InputError: It has.
        """
        if self.layout and self.layout != source.network.head.layout:
            kind, other = ("with", "ultralytics") if self.layout == "yolov5" else ("without", "yolov5")
            raise InputError(
                f"{short_name(source.architecture)}: --format {self.module} takes models {kind} anchors; "
                f"use --format {other} or onnx"
            )

    def path(self, folder: Path, stem: str, options: ExportOptions) -> Path:
        """The file, or the folder, that a model is written to."""
        precision = "_int8" if options.int8 else "_half" if options.half else ""
        return folder / f"{stem}{precision}{self.suffix}"

    def write(self, source: ExportSource, path: Path, options: ExportOptions) -> None:
        """Write a model; a file or folder of that name is replaced as a whole.

        Raises:
            InputError: The model or an option does not suit the format.
            OSError: The folder cannot be written to.
        """
        self.check(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as workshop:
            written = Path(workshop) / path.name
            write: WritesModel = import_module(f".{self.module}", __package__).write
            with _quiet_libraries():
                write(source, written, options)
            if path.is_dir():
                shutil.rmtree(path)
            os.replace(written, path)


_ANY, _HALF = frozenset({"dynamic", "half", "nms"}), frozenset({"half"})

_ONNX = ("onnx", "onnxslim")

FORMATS: Mapping[str, Format] = {
    "onnx": Format("onnx", ".onnx", "onnx", (*_ONNX, "onnxruntime"), _ANY | {"int8"}),
    "openvino": Format("openvino", "_openvino_model", "openvino", ("openvino", "nncf"), _ANY | {"int8"}),
    "torchscript": Format("torchscript", ".torchscript", None, (), _ANY),
    "torch-export": Format("torch_export", ".pt2", None, (), _ANY),
    "aoti": Format("aoti", "_aoti.pt2", None, (), _ANY),
    "tensorrt": Format("tensorrt", "_tensorrt", "onnx", _ONNX, frozenset({"dynamic", "half"}), False),
    "ncnn": Format("ncnn", "_ncnn_model", "ncnn", ("pnnx",), _HALF, False),
    "coreml": Format("coreml", ".mlpackage", "coreml", ("coremltools",), _HALF, False, "yolov5"),
    "litert": Format("litert", ".tflite", "litert", ("litert_torch",), frozenset(), False),
    "yolov5": Format("yolov5", "_yolov5.pt", None, (), _HALF, layout="yolov5"),
    "ultralytics": Format("ultralytics", "_ultralytics.pt", None, (), _HALF, layout="ultralytics"),
    "safetensors": Format("safetensors", ".safetensors", None, (), _HALF),
}
"""Every format, by its name on the command line."""


def find_format(name: str, options: ExportOptions) -> Format:
    """The format of a name, which can carry out the options.

    Raises:
        InputError: There is no such format, it lacks an option, or a library is not installed.
    """
    if name not in FORMATS:
        raise InputError(f"--format {name} is unknown; use {', '.join(FORMATS)}")
    form = FORMATS[name]
    given = {option for option in ("dynamic", "half", "int8", "nms") if getattr(options, option)}
    if lacking := sorted(given - form.options):
        raise InputError(f"--format {name} has no --{lacking[0]}; export {name} without it")
    if missing := [library for library in form.libraries if find_spec(library) is None]:
        raise InputError(f"{missing[0]} is not installed; run pip install 'yolo-lightning[{form.extra}]'")
    return form
