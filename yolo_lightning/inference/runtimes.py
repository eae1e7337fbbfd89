"""Runtimes of exported models: ONNX, OpenVINO, TorchScript, torch.export and AOTInductor."""

from __future__ import annotations

import ast
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn.functional import pad

from ..errors import InputError
from ..model.boxes import xywh_to_xyxy
from ..system.text import first_line
from .trained_model import IMAGE_SIZE_PX, ModelFacts, TorchModel, TrainedModel, load_network

Run = Callable[[Tensor], Tensor]
"""An exported model: images float32 (B, 3, H, W) to its one output, both on the CPU."""


class ExportedModel:
    """An exported model as a :class:`~.trained_model.TrainedModel`.

    It takes any number of images, also where the model has a fixed batch.

    Args:
        run: The model.
        metadata: Facts from its file, see ``export.formats.metadata``; those of ultralytics/yolov5 and
            ultralytics suffice.
    """

    def __init__(self, run: Run, metadata: Mapping[str, Any]) -> None:
        self.facts = _facts(metadata)
        self._run = run
        self._layout = metadata.get("layout") or ("detections" if _args(metadata).get("nms") else None)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        outputs = []
        for chunk in images.cpu().split(self.facts.batch_size or len(images)):
            absent = (self.facts.batch_size or 0) - len(chunk)
            full = pad(chunk, (0, 0, 0, 0, 0, 0, 0, absent)) if absent > 0 else chunk
            outputs.append(self._run(full.contiguous())[: len(chunk)])
        return self._split(torch.cat(outputs).float().to(images.device))

    def _split(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes xyxy (B, K, 4) and scores (B, K, C) of an output in any layout."""
        classes = len(self.facts.class_names)
        # A file of another program does not name its layout, but its shape tells.
        layout = self._layout or ("yolov5" if output.shape[-1] == 5 + classes else "ultralytics")
        dimension, columns = {"yolov5": (2, 5 + classes), "ultralytics": (1, 4 + classes)}.get(layout, (2, 6))
        if output.ndim != 3 or output.shape[dimension] != columns:
            raise InputError(
                f"the model gives a tensor {tuple(output.shape)}, which is no table of boxes of {classes} "
                "classes; give a model that detects, not one that segments or classifies"
            )
        if layout == "yolov5":
            return xywh_to_xyxy(output[..., :4]), output[..., 5:] * output[..., 4:5]
        if layout == "ultralytics":
            output = output.transpose(1, 2)  # (B, K, 4+C)
            return xywh_to_xyxy(output[..., :4]), output[..., 4:]
        scores = output.new_zeros(*output.shape[:2], classes)
        return output[..., :4], scores.scatter(2, output[..., 5:].long(), output[..., 4:5])


def open_model(
    path: str | Path,
    device: torch.device | None = None,
    architecture: str | None = None,
    trust: bool = False,
) -> TrainedModel:
    """Open a trained model in any format that can be run here.

    Args:
        path: ``.onnx``, a folder with OpenVINO's ``.xml``, ``.torchscript``, ``.pt2``, or what
            ``trained_model.load_network`` reads.
        device: Where it runs; the CPU if None. OpenVINO and torch's formats always run on the CPU, for which
            they were made.
        architecture: Name or YAML of the model, for weights that do not tell.
        trust: Open ``.torchscript`` and ``.pt2``, too. They contain programs, which are run.

    Raises:
        InputError: The file cannot be read, its library is not installed, or it is not trusted.
    """
    path, device = Path(path), device or torch.device("cpu")
    kind = "openvino" if path.is_dir() else path.suffix
    if kind not in _OPEN:
        network, facts, _ = load_network(path, architecture)
        return TorchModel(network, facts, device)
    if not path.exists():
        raise InputError(f"{path}: is not a file; give an exported model")
    if kind in (".torchscript", ".pt2") and not trust:
        raise InputError(
            f"{path}: contains a program, which opening it would run; pass trust=True if you know who made "
            "it, or use an .onnx file, which contains none"
        )
    try:
        return ExportedModel(*_OPEN[kind](path, device))
    except InputError:
        raise
    except ModuleNotFoundError as error:
        extra = kind.removeprefix(".")
        raise InputError(
            f"{error.name} is not installed; run pip install 'yolo-lightning[{extra}]'"
        ) from None
    except Exception as error:  # a damaged file fails in any way
        raise InputError(
            f"{path}: cannot be opened ({first_line(error)}): it is damaged or of another version; "
            "export it again"
        ) from error


def _open_onnx(path: Path, device: torch.device) -> tuple[Run, Mapping[str, Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # it would use all cores of the machine
    providers = ["CPUExecutionProvider"]
    if device.type == "cuda":
        providers = ["CUDAExecutionProvider", *providers]
    session = onnxruntime.InferenceSession(path, options, providers=providers)
    wanted = session.get_inputs()[0]
    is_half = wanted.type == "tensor(float16)"  # as yolov5's --half makes it

    def run(images: Tensor) -> Tensor:
        images = images.half() if is_half else images
        return torch.from_numpy(session.run(None, {wanted.name: images.numpy()})[0])

    facts = _literals(session.get_modelmeta().custom_metadata_map)
    is_fixed = all(isinstance(length, int) for length in wanted.shape)
    return run, {"shape": wanted.shape, **facts} if is_fixed else facts


def _open_openvino(path: Path, _device: torch.device) -> tuple[Run, Mapping[str, Any]]:
    graphs = list(path.glob("*.xml"))
    if len(graphs) != 1:
        raise InputError(
            f"{path}: has {len(graphs)} .xml files; give a folder with one exported model, or the checkpoint "
            "itself, such as checkpoints/best.ckpt in a run"
        )
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    model = openvino.Core().compile_model(graphs[0], "CPU", settings)
    with (path / "metadata.yaml").open(encoding="utf-8") as file:
        facts = yaml.safe_load(file)
    return lambda images: torch.from_numpy(model(images.numpy())[0]), facts


def _open_torchscript(path: Path, _device: torch.device) -> tuple[Run, Mapping[str, Any]]:
    extra = {"config.txt": ""}
    module = torch.jit.load(path, map_location="cpu", _extra_files=extra).eval()
    return module, json.loads(extra["config.txt"])


def _open_pt2(path: Path, _device: torch.device) -> tuple[Run, Mapping[str, Any]]:
    """Open the graph of torch.export, or the package of AOTInductor if it has compiled code."""
    with zipfile.ZipFile(path) as archive:
        is_compiled = any("/aotinductor/" in name for name in archive.namelist())
    if is_compiled:
        package = torch._inductor.aoti_load_package(str(path))
        return package, _literals(package.loader.get_metadata())
    extra = {"config.txt": ""}
    program = torch.export.load(path, extra_files=extra)
    return program.module(), json.loads(extra["config.txt"])


_OPEN: dict[str, Callable[[Path, torch.device], tuple[Run, Mapping[str, Any]]]] = {
    ".onnx": _open_onnx,
    "openvino": _open_openvino,
    ".torchscript": _open_torchscript,
    ".pt2": _open_pt2,
}


def _literals(texts: Mapping[str, str]) -> dict[str, Any]:
    """Values from a file that holds text alone, as Python writes them; unreadable ones stay text."""
    values: dict[str, Any] = {}
    for key, text in texts.items():
        try:
            values[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            values[key] = text
    return values


def _args(metadata: Mapping[str, Any]) -> dict[str, Any]:
    found = metadata.get("args")
    return found if isinstance(found, dict) else {}


def _facts(metadata: Mapping[str, Any]) -> ModelFacts:
    """Facts of an exported model.

    Raises:
        ValueError: There are no names of classes, without which its output cannot be read.
    """
    names = metadata.get("names")
    if not isinstance(names, dict | list) or not names:
        raise ValueError("the file does not name its classes")
    ordered = [names[key] for key in sorted(names, key=int)] if isinstance(names, dict) else names
    shape = metadata.get("shape") or (None,)  # all that files of yolov5 tell, (B, 3, H, W)
    size, batch = metadata.get("imgsz") or shape[2:], metadata.get("batch") or shape[0]
    trained = metadata.get("image_size") or (max(size) if size else IMAGE_SIZE_PX)
    sides = trained if isinstance(trained, list) else [trained]
    args = _args(metadata)
    is_open = bool(args.get("dynamic"))
    ids, thresholds = metadata.get("category_ids"), metadata.get("score_thresholds")
    return ModelFacts(
        class_names=tuple(map(str, ordered)),
        category_ids=tuple(map(int, ids)) if ids else None,
        image_size=(int(sides[0]), int(sides[-1])),
        stride=int(metadata.get("stride", 32)),
        batch_size=int(batch) if batch and (not is_open or args.get("nms")) else None,
        input_size=(int(size[0]), int(size[1])) if size and not is_open else None,
        score_thresholds=tuple(map(float, thresholds)) if thresholds else None,
    )
