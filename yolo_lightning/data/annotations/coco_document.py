"""A COCO JSON, whose annotations become flat arrays while it is parsed."""

from __future__ import annotations

import errno
import json
import re
from array import array
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from .index import Annotations, IntArray
from .outlines import Outlines, box_around, points_of

_MOST_BYTES = 2**33
_LARGEST = 1e30  # of the numbers of an annotation, which become float32


class Row(int):
    """Number of an annotation among the columns; a plain number in the file is none."""

    __slots__ = ()


class Columns:
    """Annotations moved into flat arrays while their JSON is parsed.

    The parser calls ``hook`` with every complete object. A correct annotation is replaced by its row number,
    so that only one at a time, with its polygons, exists as Python objects.

    Args:
        keep_outlines: Keep the polygons, too.
    """

    def __init__(self, keep_outlines: bool = False) -> None:
        self.keep_outlines = keep_outlines
        self.points, self.ends = array("f"), array("q", [0])  # of the outlines: x, y, x, y ...
        self.row_id, self.image, self.category = array("q"), array("q"), array("q")
        self.images: dict[Any, int] = {}  # a number for each id: it may be a text, and an array has integers
        self.categories: dict[Any, int] = {}
        self.boxes, self.areas, self.crowd = array("d"), array("d"), array("b")

    def hook(self, item: dict[str, Any]) -> Any:
        box, outline = item.get("bbox"), item.get("segmentation")
        if not ("image_id" in item and "category_id" in item and (box or outline)):
            return item
        row = Row(len(self.crowd))
        name = item.get("id", row)
        try:
            if box:
                x, y, width, height = (float(value) for value in box)
                x2, y2 = x + width, y + height
            else:
                x, y, x2, y2 = box_around(outline)
                width, height = x2 - x, y2 - y
            area = item.get("area")
            area = width * height if area is None else float(area)
            image, category = key_of(item["image_id"]), key_of(item["category_id"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return item  # a finding of _annotation_rows
        if not all(abs(value) < _LARGEST for value in (x, y, x2, y2, area)):  # false for NaN
            return item
        self.image.append(self.images.setdefault(image, len(self.images)))
        self.category.append(self.categories.setdefault(category, len(self.categories)))
        self.row_id.append(name if isinstance(name, int) and abs(name) < 2**63 else row)
        self.boxes.extend((x, y, x2, y2))
        self.areas.append(area)
        self.crowd.append(item.get("iscrowd") in (1, "1", "true"))
        if self.keep_outlines:
            self.points.frombytes(points_of(outline).tobytes())
            self.ends.append(len(self.points) // 2)
        return row

    def finish(self, kept: IntArray) -> Annotations:
        """The annotations of the rows ``kept``, with the numbers of their image and category ids."""
        return Annotations(
            image=np.array(self.image, np.int64)[kept],
            row_id=np.array(self.row_id, np.int64)[kept],
            classes=np.array(self.category, np.int64)[kept],
            boxes=np.array(self.boxes, np.float64).reshape(-1, 4)[kept],
            areas=np.array(self.areas, np.float64)[kept],
            crowd=np.array(self.crowd, np.bool_)[kept],
            outlines=self._outlines().take(kept) if self.keep_outlines else None,
        )

    def _outlines(self) -> Outlines:
        ends = np.array(self.ends, np.int64)
        points = np.array(self.points, np.float32).reshape(-1, 2)
        return Outlines(points, np.stack((ends[:-1], ends[1:]), axis=1))


def load_document(path: Path, keep_outlines: bool = False) -> tuple[dict[str, Any], Columns]:
    """A COCO JSON, with its annotations in columns.

    Raises:
        InputError: It cannot be read, or is not COCO.
    """
    columns = Columns(keep_outlines)
    try:
        if path.stat().st_size > _MOST_BYTES:  # a file with a hole takes no room on the disk
            raise OSError(errno.EFBIG, "it has more than 8 GiB")
        document = json.loads(path.read_bytes(), object_hook=columns.hook)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}:{error.lineno}: broken JSON at column {error.colno} ({error.msg}); "
            f"repair the line or export the annotations again"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a text in UTF-8; save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or brackets
        reason = "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"
        raise InputError(f"{path}: broken JSON ({reason}); export the annotations again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if not isinstance(document, dict):
        raise InputError(
            f"{path}: not COCO annotations (an object with images, annotations and categories); "
            f"export it as COCO instances"
        )
    return document, columns


def key_of(value: Any) -> Any:
    """Key that compares ids: 7, 7.0 and "7" are one id. Any JSON value but null may be an id."""
    if type(value) is int:
        return value
    if value is None:
        raise TypeError("no id")
    if isinstance(value, float) and value.is_integer():
        return int(value)
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return int(text) if re.fullmatch("0|[1-9][0-9]{0,17}", text) else text
