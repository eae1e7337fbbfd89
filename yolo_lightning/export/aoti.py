"""AOTInductor: machine code in a ``.pt2`` package, for C++ without Python and for ``aoti_load_package``."""

from __future__ import annotations

from pathlib import Path

import torch

from .formats import ExportOptions, ExportSource, metadata
from .torch_export import capture


def write(source: ExportSource, path: Path, options: ExportOptions) -> None:
    """Compile for the processor of this machine, see ``formats.WritesModel``."""
    facts = {key: str(value) for key, value in metadata(source, options).items()}
    torch._inductor.aoti_compile_and_package(
        capture(source, options),
        package_path=str(path),
        inductor_configs={"aot_inductor.metadata": facts},
    )
