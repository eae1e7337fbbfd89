"""The processor of this machine, as Linux describes it."""

from __future__ import annotations

from pathlib import Path


def processor_facts(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Facts of the first core: ``model name``, ``flags`` (x86) or ``Features`` (ARM). Empty without Linux."""
    try:
        block = path.read_text().split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in block.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}
