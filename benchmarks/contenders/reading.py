"""How a contender hands over what it measured: one line of JSON on standard output."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from typing import Any

PREFIX = "READING "
"""Prefix that marks the line among other output."""

_PACKAGES = (
    "yolo-lightning",
    "yolov5",
    "ultralytics",
    "ultralytics-opencv-headless",
    "torch",
    "torchvision",
    "lightning",
    "opencv-python-headless",
    "opencv-python",
    "numpy",
)


def print_reading(value: float, **details: Any) -> None:
    """Print the one figure that is compared, what else is worth keeping, and the versions."""
    print(PREFIX + json.dumps({"value": value, "details": details, "versions": versions()}), flush=True)


def versions() -> dict[str, str]:
    """Of Python and of the packages that matter, where they are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
