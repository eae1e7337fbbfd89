"""Core ML: an ``.mlpackage`` for Apple's devices, converted on any machine and run by macOS and iOS alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from .formats import ExportOptions, ExportSource, build_module, metadata


def write(source: ExportSource, path: Path, options: ExportOptions) -> None:
    """Write the package, with the facts in its user-defined metadata, see ``formats.WritesModel``.

    Half precision computes and stores in 16 bits, which the neural engine needs. Models without anchors are
    refused, because coremltools does not know the product in their decoding.
    """
    import coremltools

    module, example = build_module(source, replace(options, half=False)), options.example()
    model = coremltools.convert(
        torch.jit.trace(module, example),
        inputs=[coremltools.TensorType("images", example.shape)],
        outputs=[coremltools.TensorType("output0")],
        convert_to="mlprogram",
        compute_precision=getattr(coremltools.precision, "FLOAT16" if options.half else "FLOAT32"),
    )
    facts = metadata(source, options)
    model.short_description, model.version = str(facts["description"]), str(facts["version"])
    model.user_defined_metadata.update({name: str(value) for name, value in facts.items()})
    model.save(str(path))
