"""What a run used: versions of the packages, the commit, and the processor."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "yolo-lightning",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "ultralytics-opencv-headless",
    "jsonargparse",
    "opencv-python-headless",
    "numpy",
)


def package_version(package: str) -> str | None:
    """Installed version of a package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Commit of the checkout that this code runs from; None if it was installed without one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # git would find a repository further up
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def processor_facts(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Facts of the first core: ``model name``, ``flags`` (x86) or ``Features`` (ARM). Empty without Linux."""
    try:
        block = path.read_text().split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in block.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}
