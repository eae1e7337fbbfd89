"""YOLO label files: where they are, and the lines in them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...errors import InputError
from .findings import EVERY_IMAGE, Finding
from .index import IMAGE_SUFFIXES, IntArray
from .outlines import Points
from .spelling import read_text

_SLACK = 0.1
"""Coordinates may lie out of 0..1 by this much: the box reaches over the edge. Beyond, the unit is wrong."""
_UNKNOWN_CLASS = "unknown class"
_MANY_LABELS = 20  # without any of class 0, if not all others are used
Rows = npt.NDArray[np.float64]
"""The rows of a label file, see :func:`read_labels`."""


def label_path(image: str) -> str:
    """The label file of an image: its last folder ``images`` becomes ``labels``, its suffix ``.txt``."""
    head, found, tail = image.rpartition(f"{os.sep}images{os.sep}")
    moved = f"{head}{os.sep}labels{os.sep}{tail}" if found else image
    return os.path.splitext(moved)[0] + ".txt"


def find_label(image: str) -> str:
    """The label file of an image; where it should be if there is none.

    That is :func:`label_path`, also with an upper-case suffix; without its folder, a file beside the image.
    """
    usual = label_path(image)
    if os.path.exists(usual):
        return usual
    stem = os.path.splitext(usual if os.path.isdir(os.path.dirname(usual)) else image)[0]
    return next(filter(os.path.exists, (stem + ".txt", stem + ".TXT")), usual)


class _WrongLine(Exception):
    """A line that is no label; the arguments are those of its finding."""


def read_labels(
    path: str,
    numbers: Mapping[int, int],
    pose_numbers: int,
    wrong: list[Finding],
    outlines: list[Points] | None = None,
) -> Rows | None:
    """The rows of one label file.

    Its lines are ``class cx cy w h``, relative to the image's width and height, or
    ``class x1 y1 x2 y2 x3 y3 ...``, a polygon, which is replaced by its bounding box. Commas may part them.

    Args:
        path: The file.
        numbers: The class 0 .. C-1 of each number that a line may begin with.
        pose_numbers: Numbers of the points that follow each box; there are no polygons then.
        wrong: Gets a finding about each line that is no label, and about a file that cannot be read.
        outlines: Gets the polygon of each row, relative to the image, without points for a box.

    Returns:
        float64 (n, 6): line number, class, x1, y1, x2, y2 relative to the image; None if there is no file.
    """
    try:
        lines = read_text(Path(path)).splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        wrong.append(Finding("unreadable labels", path, f"cannot be read ({error})", "write them again"))
        return np.zeros((0, 6))
    except InputError as error:
        wrong.append(Finding.from_error("unreadable labels", error))
        return np.zeros((0, 6))
    rows = []
    for n, line in enumerate(lines, start=1):
        try:
            if fields := _fields(line):
                rows.append((n, *_parse(fields, numbers, pose_numbers)))
                if outlines is not None:
                    points = [] if pose_numbers or len(fields) == 5 else fields[1:]
                    outlines.append(np.array(points, np.float32).reshape(-1, 2))
        except _WrongLine as error:
            kind, what, remedy = error.args
            wrong.append(Finding(kind, f"{path}:{n}", what, remedy))
    return np.array(rows, np.float64).reshape(-1, 6)


def _fields(line: str) -> list[str]:
    """The numbers of one line, parted by spaces, tabs, semicolons or commas."""
    if ";" in line:
        line = (line if "." in line else line.replace(",", ".")).replace(";", " ")
    fields = line.split()
    if "," not in line:
        return fields
    if "." not in line and any("," in field.strip(",") for field in fields[1:]):  # 0,5 may be 0.5, or 0 and 5
        what = f"'{line.strip()[:40]}' has commas for decimal points"
        raise _WrongLine("no numbers", what, "write 0.5, not 0,5")
    return line.replace(",", " ").split()


def _parse(
    fields: Sequence[str], numbers: Mapping[int, int], pose_numbers: int
) -> tuple[float, float, float, float, float]:
    """Class and xyxy, relative to the image, of one line."""
    count = len(fields)
    if count not in (5, 5 + pose_numbers) and (pose_numbers or count < 7 or count % 2 == 0):
        more = "or the class and at least three points of a polygon"
        more = f"and {pose_numbers} numbers, as 'kpt_shape' says" if pose_numbers else more
        remedy = f"write 'class cx cy width height', {more}"
        raise _WrongLine("wrong count of numbers", f"{count} numbers are not a label", remedy)
    fields = fields[:5] if pose_numbers else fields
    try:
        number, *values = (float(field) for field in fields)
    except ValueError:
        what = f"'{' '.join(fields[:6])}' is not all numbers"
        raise _WrongLine("no numbers", what, "correct the line") from None
    label = numbers.get(number)  # type: ignore[call-overload]  # 2.0 is 2
    if label is None:
        last = max(numbers)
        known = f"0 to {last}" if last == len(numbers) - 1 else ", ".join(map(str, numbers))
        remedy = "correct it or add the class to 'names' in the data.yaml"
        raise _WrongLine(_UNKNOWN_CLASS, f"class {fields[0]} is not one of {known}", remedy)
    if len(values) == 4 and min(values[2:]) < 0:
        raise _WrongLine("negative size", "width and height cannot be negative", "correct the line")
    for field, value in zip(fields[1:], values, strict=True):
        if not math.isfinite(value):
            raise _WrongLine("no numbers", f"{field} is out of 0..1", "write a number")
        if not -_SLACK <= value <= 1 + _SLACK:
            remedy = "divide x and width by the image's width, y and height by its height"
            pose = ", or add 'kpt_shape' to the data.yaml if these are points of a pose"
            remedy += pose if len(values) > 4 else ""
            raise _WrongLine("not in 0..1", f"{field} is out of 0..1", remedy)
    if len(values) > 4:
        xs, ys = values[0::2], values[1::2]
        return label, min(xs), min(ys), max(xs), max(ys)
    x, y, width, height = values
    return label, x - width / 2, y - height / 2, x + width / 2, y + height / 2


def count_from_one(
    source: Path, numbers: Mapping[int, int], classes: IntArray, wrong: list[Finding]
) -> list[Finding]:
    """Findings about lines; those about unknown classes as one finding if the classes count from 1.

    That is certain enough if the only unknown class is C, 0 is never used, and all others are, or there are
    many labels.
    """
    last = len(numbers)
    unknown = [finding for finding in wrong if finding.kind == _UNKNOWN_CLASS]
    used = set(classes.tolist())
    many = len(classes) + len(unknown) >= (_MANY_LABELS if len(used) < last - 1 else 2)
    are_consecutive = max(numbers) == last - 1
    if not (unknown and many and are_consecutive and 0 not in used):
        return wrong
    if any(not finding.what.startswith((f"class {last} ", f"class {last}.0 ")) for finding in unknown):
        return wrong
    what = f"the classes of the labels seem to count from 1: {last} is used in {len(unknown)} lines and 0 "
    what += f"never, but 'names' counts from 0 to {last - 1}"
    remedy = "subtract 1 from the class of every line"
    found = Finding("classes from 1", str(source), what, remedy, EVERY_IMAGE, is_error=True)
    return [found, *(finding for finding in wrong if finding.kind != _UNKNOWN_CLASS)]


def are_poses(files: Iterable[str]) -> bool:
    """True if the polygons of label files are poses: a box, and points in it.

    All have one length, ten or more of them. As a polygon, the size of the box would be a point; for most it
    lies far from the others.
    """
    lengths, far = set(), []
    for path in files:
        try:
            lines = read_text(Path(path)).splitlines()
            rows = [np.array(fields[1:], float) for line in lines if len(fields := _fields(line)) > 5]
        except (OSError, InputError, ValueError, _WrongLine):
            continue
        for row in rows:
            if len(row) % 2:
                return False
            has_flags = len(row) % 3 == 1 and set(row[6::3]) <= {0, 1}  # of visible points
            centre, size = row[:2], row[2:4]
            points = row[4:].reshape(-1, 3)[:, :2] if has_flags else row[4:].reshape(-1, 2)
            shown = np.array([point for point in points if point.any()] or [centre])  # 0, 0: not labelled
            if (np.abs(shown - centre) > size / 2 + _SLACK).any():
                return False
            others = np.array([centre, *shown])
            low, high = others.min(axis=0), others.max(axis=0)
            far.append(bool((np.maximum(low - size, size - high) > high - low).any()))
            lengths.add(len(row))
    return len(far) >= 10 and len(lengths) == 1 and sum(far) > len(far) / 2


def labels_without_images(images: Sequence[str], source: Path) -> Iterator[Finding]:
    """Label files beside which there is no image, or one of a format that is not read."""
    unread: list[str] = []
    for folder in dict.fromkeys(map(os.path.dirname, images)):
        place = os.path.dirname(label_path(os.path.join(folder, "x")))
        place = place if os.path.isdir(place) else folder
        files = [os.path.splitext(name) for name in os.listdir(folder)]
        read = {stem for stem, suffix in files if suffix.lower() in IMAGE_SUFFIXES}
        others = {stem: suffix for stem, suffix in files if suffix.lower() not in (".txt", *IMAGE_SUFFIXES)}
        for stem, suffix in sorted(map(os.path.splitext, os.listdir(place))):
            path = os.path.join(place, stem + suffix)
            if suffix.lower() != ".txt" or stem in read or not _has_labels(path):
                continue
            if stem in others:
                unread.append(os.path.join(folder, stem + others[stem]))
                continue
            what, remedy = "there is no image for these labels", "add the image, or remove the file"
            yield Finding("labels without image", path, what, remedy)
    if unread:
        suffixes = ", ".join(sorted({os.path.splitext(path)[1] for path in unread}))
        what = f"{len(unread)} files with labels are not read ({suffixes}), such as {unread[0]}"
        yield Finding("images not read", str(source), what, "convert them to JPEG or PNG")


def _has_labels(path: str) -> bool:
    """True if a text begins with a label; others are lists of names or notes."""
    try:
        fields = [] if os.path.islink(path) else _fields(read_text(Path(path)).partition("\n")[0])
        return len([float(field) for field in fields]) >= 5
    except (OSError, ValueError, _WrongLine):
        return False
