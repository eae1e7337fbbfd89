"""TorchScript: a traced module for libtorch and ``torch.jit.load``."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from .formats import ExportOptions, ExportSource, build_module, metadata


def write(source: ExportSource, path: Path, options: ExportOptions) -> None:
    """Write a trace, see ``formats.WritesModel``; its facts are JSON under ``config.txt``, as in yolov5."""
    traced = torch.jit.trace(build_module(source, options), options.example(), check_trace=False)
    facts = json.dumps(metadata(source, options))
    torch.jit.save(traced, path, _extra_files={"config.txt": facts})
