"""A network with one block of each kind, which takes a small part of the time of a YOLOv5."""

from __future__ import annotations

from pathlib import Path

_LAYERS = """
backbone:
  - [-1, 1, Conv, [8, 6, 2, 2]]
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [16, 3, 2]]  # 2: stride 8
  - [-1, 1, C3, [16]]
  - [-1, 1, Conv, [16, 3, 2]]  # 4: stride 16
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, SPPF, [16, 5]]  # 6: stride 32
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]
  - [[-1, 4], 1, Concat, [1]]  # 8: stride 16
"""
_ANCHORS = "anchors: [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]\n"


def write_small_yaml(folder: Path, anchors: bool, head: str = "Detect") -> str:
    """Write the YAML of the network and return its path."""
    path = folder / "small.yaml"
    path.write_text(f"{_LAYERS}  - [[3, 8, 6], 1, {head}, [nc]]\n{_ANCHORS if anchors else ''}")
    return str(path)
