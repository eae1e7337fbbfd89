"""Detections of one image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.images.decode import header_size, read_rgb
from ..errors import InputError
from ..monitoring.pictures.draw_boxes import Pixels
from .media import DrawOptions, draw_detections, write_picture

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Detections:
    """Detections of one image, best first.

    Attributes:
        table: float32 (n, 6): x1, y1, x2, y2 in px of the original image, score 0..1, class.
        names: name of each class of the model.
        path: file, video, address or camera that the image is from; None for an array or a tensor.
        frame: number of the image in its video or stream, from 0; None for any other image.
    """

    table: Floats
    names: Sequence[str] = field(repr=False)
    path: str | None = None
    frame: int | None = None
    pixels: Pixels | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.table)

    def __str__(self) -> str:
        """Such as ``photo.jpg: 2 person, 1 bus``."""
        place = "image" if self.path is None else self.path
        return f"{place}: {in_words(Counter(self.labels.tolist()), self.names)}"

    @property
    def boxes(self) -> Floats:
        """float32 (n, 4): x1, y1, x2, y2 in px of the original image."""
        return self.table[:, :4]

    @property
    def scores(self) -> Floats:
        """float32 (n,), 0..1."""
        return self.table[:, 4]

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """int64 (n,), classes."""
        return self.table[:, 5].astype(np.int64)

    @property
    def image(self) -> Pixels:
        """uint8 RGB (H, W, 3), the original image; that of a file is read again."""
        if self.pixels is not None:
            return self.pixels
        assert self.path is not None
        return read_rgb(self.path, header_size(self.path))

    def pandas(self) -> Any:
        """A pandas.DataFrame with the columns xmin, ymin, xmax, ymax, confidence, class, name of yolov5.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise InputError("pandas is missing; pip install 'yolo-lightning[pandas]'") from None
        columns = ["xmin", "ymin", "xmax", "ymax", "confidence"]
        frame = pandas.DataFrame(self.table[:, :5], columns=columns)
        frame["class"] = self.labels
        frame["name"] = [self.names[label] for label in self.labels]
        return frame

    def to_supervision(self) -> Any:
        """A supervision.Detections, with the names of the classes as ``data["class_name"]``.

        Raises:
            InputError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise InputError("supervision is missing; pip install 'yolo-lightning[supervision]'") from None
        names = np.array([self.names[label] for label in self.labels], dtype=str)
        return supervision.Detections(
            xyxy=self.boxes, confidence=self.scores, class_id=self.labels, data={"class_name": names}
        )

    def plot(self, line_width: int = 0, hide_labels: bool = False, hide_scores: bool = False) -> Pixels:
        """Draw the boxes on a copy of the image.

        Args:
            line_width: width of the lines in px; 0: by the size of the image.
            hide_labels: draw no names of classes.
            hide_scores: draw no scores.

        Returns:
            uint8 RGB (H, W, 3).
        """
        return draw_detections(
            self.image, self.table, self.names, DrawOptions(line_width, hide_labels, hide_scores)
        )

    def save(self, path: str | Path, line_width: int = 0) -> Path:
        """Write the image with its boxes; ``.jpg`` is put behind an unknown suffix. Returns the path."""
        return write_picture(Path(path), self.plot(line_width))


def in_words(count: Counter[int], class_names: Sequence[str]) -> str:
    """Numbers of detections by class, such as ``2 person, 1 bus``."""
    return ", ".join(f"{n} {class_names[label]}" for label, n in count.most_common()) or "nothing"
