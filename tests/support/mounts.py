"""A small file system of its own, for tests of what happens when a disk is full."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def file_system(folder: Path, size: str) -> Iterator[None]:
    """Mount one in memory over a folder. On a machine of CI it is an error if that cannot be.

    Args:
        folder: An empty one.
        size: As ``mount`` takes it, such as ``300m``.
    """
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        reason = "mounting a file system is not permitted here"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
