"""Annotated pictures and videos, and pictures of single objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ..monitoring.pictures.draw_boxes import Pixels, class_colour, draw_boxes, legible

_WRITABLE = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_CROP_GAIN, _CROP_PAD_PX = 1.02, 10
"""A crop is as much larger than its box as in classic YOLOv5: by a factor, and by this many px."""


@dataclass(frozen=True)
class DrawOptions:
    """How detections are drawn."""

    line_width: int = 0  # px; 0: by the size of the image
    hide_labels: bool = False
    hide_scores: bool = False


def draw_detections(
    image: Pixels,
    table: npt.NDArray[np.float32],
    names: Sequence[str],
    options: DrawOptions = DrawOptions(),
) -> Pixels:
    """Draw a box for each detection on a copy of an image, the highest score on top.

    Args:
        image: uint8 RGB (H, W, 3).
        table: (n, 6) x1, y1, x2, y2 in px, score, class.
        names: of the classes.
        options: how.
    """
    names = legible(names)
    table = table[np.argsort(table[:, 4])]
    scores, labels = table[:, 4].tolist(), table[:, 5].astype(int).tolist()
    captions = [
        " ".join(
            ([] if options.hide_labels else [names[label]])
            + ([] if options.hide_scores else [f"{score:.2f}"])
        )
        for label, score in zip(labels, scores, strict=True)
    ]
    line_px = options.line_width or max(1, round(0.0015 * (image.shape[0] + image.shape[1])))
    colours = [class_colour(label) for label in labels]
    return draw_boxes(image, table[:, :4], captions, colours, line_px, font_px=max(10, 7 * line_px))


def write_picture(path: Path, picture: Pixels) -> Path:
    """Write an RGB picture, as JPEG if its suffix is of no format that can be written; returns its path."""
    if path.suffix.lower() not in _WRITABLE:
        path = path.with_name(path.name + ".jpg")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
        raise OSError(f"{path}: the picture cannot be written")
    return path


def write_crops(
    folder: Path, name: str, image: Pixels, table: npt.NDArray[np.float32], names: Sequence[str]
) -> None:
    """Write each object as ``<folder>/<class>/<name>_<k>.jpg``, a little larger than its box."""
    height, width = image.shape[:2]
    for k, (x1, y1, x2, y2, _, label) in enumerate(table.tolist()):
        grow_x = ((x2 - x1) * (_CROP_GAIN - 1) + _CROP_PAD_PX) / 2
        grow_y = ((y2 - y1) * (_CROP_GAIN - 1) + _CROP_PAD_PX) / 2
        left, top = max(0, int(x1 - grow_x)), max(0, int(y1 - grow_y))
        crop = image[top : min(height, int(y2 + grow_y)), left : min(width, int(x2 + grow_x))]
        # A name comes from the file of the model, and must not lead out of the folder.
        of_class = re.sub(r"[^\w -]", "_", names[int(label)]) or "_"
        write_picture(folder / of_class / f"{name}_{k}.jpg", crop)


class VideoFile:
    """An annotated video, MPEG-4 in an ``.mp4``.

    Args:
        path: the file.
        per_second: frames in a second.
    """

    def __init__(self, path: Path, per_second: float) -> None:
        self.path = path
        self._per_second = per_second
        self._writer: cv2.VideoWriter | None = None

    def add(self, picture: Pixels) -> None:
        """Add a frame, uint8 RGB (H, W, 3), of the size of the first."""
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            code, size = cv2.VideoWriter.fourcc(*"mp4v"), (picture.shape[1], picture.shape[0])
            self._writer = cv2.VideoWriter(str(self.path), code, self._per_second, size)
            if not self._writer.isOpened():
                raise OSError(f"{self.path}: the video cannot be written")
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Complete the file."""
        if self._writer is not None:
            self._writer.release()
