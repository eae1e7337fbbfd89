"""ncnn: a graph for phones and small boards, as a folder with ``.param`` and ``.bin``, converted by pnnx."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import yaml

from ..errors import InputError
from .formats import ExportOptions, ExportSource, build_module, metadata


def write(source: ExportSource, path: Path, options: ExportOptions) -> None:
    """Write the graph, see ``formats.WritesModel``; its facts are ``metadata.yaml``, as in ultralytics.

    Half precision stores the weights in 16 bits.

    Raises:
        InputError: More than one image a call, which ncnn cannot take.
    """
    import pnnx

    if options.batch_size != 1:
        raise InputError(f"--batch_size is {options.batch_size}; ncnn takes one image a call, use 1")
    path.mkdir()
    with tempfile.TemporaryDirectory() as folder:  # pnnx writes its own format beside that of ncnn
        pnnx.export(
            build_module(source, replace(options, half=False)),
            str(Path(folder) / "model.pt"),
            (options.example(),),
            ncnnparam=str(path / "model.ncnn.param"),
            ncnnbin=str(path / "model.ncnn.bin"),
            fp16=options.half,
        )
    facts = yaml.safe_dump(metadata(source, options), allow_unicode=True, sort_keys=False)
    (path / "metadata.yaml").write_text(facts, encoding="utf-8")
