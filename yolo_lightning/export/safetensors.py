"""safetensors: the weights alone, with architecture, class names and image size in the file's metadata."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save

from ..model.weights import METADATA_KEY
from .formats import ExportOptions, ExportSource, metadata


def write(source: ExportSource, path: Path, options: ExportOptions) -> None:
    """Write the weights under classic names (``model.0.conv.weight``)."""
    tensors = {name: tensor.contiguous() for name, tensor in source.network.state_dict().items()}
    if options.half:
        tensors = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    facts = json.dumps(metadata(source, options))
    path.write_bytes(save(tensors, {"format": "pt", METADATA_KEY: facts}))  # save_file hides it from others
