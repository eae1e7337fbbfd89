"""OpenVINO: a graph for Intel's processors, graphics and NPUs, as a folder with ``.xml`` and ``.bin``."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from .formats import ExportOptions, ExportSource, build_module, metadata


def write(source: ExportSource, path: Path, options: ExportOptions) -> None:
    """Write the graph, see ``formats.WritesModel``; its facts are ``metadata.yaml``, as in ultralytics.

    Half precision stores the weights in 16 bits. INT8 is NNCF's quantisation after training. The last
    convolutions and all after them stay in floating point: a box needs more than 256 values.
    """
    import openvino

    height, width = (-1, -1) if options.dynamic else options.image_size
    batch = -1 if options.dynamic and not options.nms else options.batch_size
    model = openvino.convert_model(
        build_module(source, replace(options, half=False)),
        example_input=options.example(),
        input=[openvino.PartialShape([batch, 3, height, width])],
    )
    if options.int8:
        model = _quantise(model, len(source.network.model) - 1, options)
    path.mkdir()
    openvino.save_model(model, path / path.with_suffix(".xml").name, compress_to_fp16=options.half)
    facts = yaml.safe_dump(metadata(source, options), allow_unicode=True, sort_keys=False)
    (path / "metadata.yaml").write_text(facts, encoding="utf-8")


def _quantise(model: Any, head: int, options: ExportOptions) -> Any:
    import nncf

    assert options.calibration is not None
    last = re.compile(rf"__module\.network\.model\.{head}\.(m\.\d+|cv[23]\.\d+\.2)/.*Convolution$")
    names = [node.get_friendly_name() for node in model.get_ordered_ops()]
    in_float = nncf.Subgraph(
        inputs=[name for name in names if last.match(name)],
        outputs=[result.get_friendly_name() for result in model.get_results()],
    )
    batches = options.calibration.split(options.batch_size)
    return nncf.quantize(
        model,
        nncf.Dataset(batches, lambda batch: batch.float().div(255).numpy()),
        preset=nncf.QuantizationPreset.MIXED,  # SiLU is not symmetric
        subset_size=len(batches),
        ignored_scope=nncf.IgnoredScope(subgraphs=[in_float]),
    )
