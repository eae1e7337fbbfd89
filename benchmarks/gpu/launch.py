"""Runs one part in this process: ``python -m benchmarks.gpu.launch MODULE RESULT SITE [options]``."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    """Write the reading of ``benchmarks.gpu.contenders.MODULE`` to RESULT, by renaming.

    SITE is a folder of packages that were carried here; what this machine has goes before it.
    """
    module, result, site, *options = sys.argv[1:]
    sys.path.append(site)
    from ..contenders.reading import versions

    began = time.perf_counter()
    reading = importlib.import_module(f"benchmarks.gpu.contenders.{module}").measure(options)
    content = {
        "reading": reading,
        "measured_s": round(time.perf_counter() - began, 2),
        "versions": versions(),
    }
    path = Path(result)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content))
    part.replace(path)
    sys.stdout.flush()
    os._exit(0)  # what trainers leave running is ended by the suite; nothing here is worth waiting for


if __name__ == "__main__":
    main()
