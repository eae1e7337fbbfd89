"""AOTInductor: machine code in a ``.pt2`` package, for C++ without Python and for ``aoti_load_package``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from ..errors import InputError
from .formats import ExportOptions, ExportSource, metadata
from .torch_export import capture


def write(source: ExportSource, path: Path, options: ExportOptions) -> None:
    """Compile for the processor of this machine, see ``formats.WritesModel``."""
    if not any(map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++")))):
        raise InputError("--format aoti needs a C++ compiler; install g++, or name yours in CXX")
    facts = {key: str(value) for key, value in metadata(source, options).items()}
    torch._inductor.aoti_compile_and_package(
        capture(source, options),
        package_path=str(path),
        inductor_configs={"aot_inductor.metadata": facts},
    )
