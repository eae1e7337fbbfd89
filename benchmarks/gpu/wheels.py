"""Gets the wheels for a machine without a network: ``python -m benchmarks.gpu.wheels DIR``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

WANTED = (
    "jsonargparse>=4.40",  # ours: options
    "docstring-parser",  # ours: what options mean
    "typeshed-client",  # ours: signatures of the Trainer
    "safetensors",
    "ultralytics-opencv-headless>=8.4.150",  # ours: blocks; and the trainer that we are compared with
    "ultralytics-thop",
    "ultralytics-platform",
    "psutil",
    "tqdm",
    "yolov5==7.0.14",
    "setuptools<81",  # the last with pkg_resources, which yolov5 imports
)
"""All but torch, torchvision, lightning and torchmetrics with what these bring."""
OPENCV = "opencv-python-headless==4.10.0.84"
"""The smallest that works with numpy 2: 50 MB, where newer ones have 54 to 61."""
LIMIT = 64 * 2**20
"""Bytes that can be carried to a lent machine."""
_PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17, 12)),
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
)


def download(folder: Path, python: str, with_opencv: bool) -> int:
    """Get the wheels into a folder; return their size in bytes.

    Args:
        folder: made if need be; wheels that are there are kept.
        python: version of the other machine, ``3.12``.
        with_opencv: whether OpenCV is among them; a machine that has it needs none.

    Raises:
        subprocess.CalledProcessError: pip found one of them not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    for platform in _PLATFORMS:
        command += ["--platform", platform]
    wanted = (*WANTED, OPENCV) if with_opencv else WANTED
    subprocess.run([*command, "--dest", str(folder), *wanted], check=True)
    return sum(path.stat().st_size for path in folder.glob("*.whl"))


def main() -> int:
    """Download and tell the sizes; status 1 where they are too large to be carried."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.wheels", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--python", default="3.12", help="version on the other machine (default: %(default)s)"
    )
    parser.add_argument(
        "--without-opencv", action="store_true", help="the other machine has OpenCV; saves 50 MB"
    )
    options = parser.parse_args()
    total = download(options.folder, options.python, not options.without_opencv)
    for path in sorted(options.folder.glob("*.whl"), key=lambda path: -path.stat().st_size):
        print(f"{path.stat().st_size / 2**20:7.2f} MiB  {path.name}")
    print(f"{total / 2**20:7.2f} MiB  in all, of {LIMIT / 2**20:.0f} that can be carried")
    return int(total > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
