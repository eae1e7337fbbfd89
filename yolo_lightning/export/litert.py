"""LiteRT (TensorFlow Lite): a graph for phones and microcontrollers, converted by litert-torch."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from .formats import ExportOptions, ExportSource, build_module, metadata


def write(source: ExportSource, path: Path, options: ExportOptions) -> None:
    """Write the graph, see ``formats.WritesModel``; a zip behind it holds the facts, as in ultralytics."""
    import litert_torch

    litert_torch.convert(build_module(source, options), (options.example(),)).export(str(path))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("metadata.json", json.dumps(metadata(source, options)))
