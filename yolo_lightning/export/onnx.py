"""ONNX: a graph for onnxruntime, TensorRT, OpenVINO and most other runtimes."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .formats import ExportOptions, ExportSource, build_module, metadata

_INPUT, _OUTPUT = "images", "output0"  # the names that ultralytics/yolov5 gives


def write(source: ExportSource, path: Path, options: ExportOptions) -> None:
    """Write a simplified, checked graph, see ``formats.WritesModel``.

    INT8 is onnxruntime's static quantisation with QDQ nodes. The last convolutions and all after them stay in
    floating point: a box needs more than 256 values.
    """
    import onnx
    import onnxslim

    with tempfile.TemporaryDirectory() as folder:
        traced = Path(folder) / "traced.onnx"
        _trace(source, options, traced)
        model = onnxslim.slim(onnx.load(traced))
    if options.nms:  # the shape that suppression always has is lost on the way
        dimension = model.graph.output[0].type.tensor_type.shape.dim[1]
        dimension.dim_value = options.max_detections
    facts = {key: str(value) for key, value in metadata(source, options).items()}
    onnx.helper.set_model_props(model, facts)
    if options.int8:
        model = _quantise(model, source, options)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _trace(source: ExportSource, options: ExportOptions, path: Path) -> None:
    axes: dict[str, dict[int, str]] = {}
    if options.dynamic:
        batch = {} if options.nms else {0: "batch"}
        axes[_INPUT] = {**batch, 2: "height", 3: "width"}
        boxes_dimension = 1 if source.network.head.layout == "yolov5" else 2
        axes[_OUTPUT] = {} if options.nms else {**batch, boxes_dimension: "boxes"}
    torch.onnx.export(
        build_module(source, options),
        (options.example(),),
        path,
        dynamo=False,  # the other exporter takes a hundred times as long, and does not know nms
        opset_version=options.opset,
        input_names=[_INPUT],
        output_names=[_OUTPUT],
        dynamic_axes=axes,
    )


class _Calibration:
    """Calibration images for onnxruntime, one batch after the other."""

    def __init__(self, images: Tensor, batch_size: int) -> None:
        self._batches: Iterator[Tensor] = iter(images.split(batch_size))

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else {_INPUT: batch.float().div(255).numpy()}


def _quantise(model: Any, source: ExportSource, options: ExportOptions) -> Any:
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    assert options.calibration is not None
    last = len(source.network.model) - 1  # number of the head, of which the blocks conv + act are quantised
    integer = re.compile(rf"/network/model\.(?!{last}/)|/network/model\.{last}/.*/(conv|act)/")
    in_float = [node.name for node in model.graph.node if not integer.match(node.name)]
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "quantised.onnx"
        quantize_static(
            model,
            str(result),
            _Calibration(options.calibration, options.batch_size),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            reduce_range=True,  # 7-bit weights: without VNNI the 16-bit sums of a CPU overflow with 8
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=in_float,
        )
        return onnx.load(result)
