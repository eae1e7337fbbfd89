"""torch.export: a graph in a ``.pt2`` file for ``torch.export.load``."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from .formats import ExportOptions, ExportSource, build_module, metadata


def write(source: ExportSource, path: Path, options: ExportOptions) -> None:
    """Write the graph, see ``formats.WritesModel``; its facts are JSON under ``config.txt``."""
    facts = json.dumps(metadata(source, options))
    torch.export.save(capture(source, options), path, extra_files={"config.txt": facts})


def capture(source: ExportSource, options: ExportOptions) -> ExportedProgram:
    """The graph of a model, with open dimensions where the options ask for them."""
    sizes = {2: Dim.DYNAMIC, 3: Dim.DYNAMIC} if options.dynamic else {}
    batch = {0: Dim.DYNAMIC} if options.dynamic and not options.nms else {}
    module = build_module(source, options)
    with torch.no_grad():
        return torch.export.export(
            module, (options.example(),), dynamic_shapes={"images": {**batch, **sizes} or None}
        )
