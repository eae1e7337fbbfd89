"""Small videos."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def make_video(path: Path, frames: int, height: int = 48, width: int = 96) -> str:
    """Write a video whose frame k is grey of the value 20 k modulo 240; returns its path."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (width, height))
    assert writer.isOpened()
    for k in range(frames):
        writer.write(np.full((height, width, 3), 20 * k % 240, np.uint8))
    writer.release()
    return str(path)
