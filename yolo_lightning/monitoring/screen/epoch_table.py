"""The printed rows of epochs, as YOLO users know them."""

from __future__ import annotations

from ..metric_names import number

_HEADER_INTERVAL = 20
"""Rows between two headers."""
_EXPENDABLE = (
    *("data wait", "images/s", "seconds", "F1 conf", "F1", "R", "P"),
    *("cls", "dfl", "obj", "box", "mAP50"),
)
"""Columns that a narrow terminal leaves out, in this order."""
_LEFT_WIDTH, _WIDTH = 9, 8
OPERATING_POINT = {"P": "precision", "R": "recall", "F1": "f1", "F1 conf": "f1_confidence"}
"""Title of a column -> metric at the confidence of the best mean F1, and that confidence."""


class EpochTable:
    """Rows of cells below a header, which returns every 20 rows and when the columns change."""

    def __init__(self) -> None:
        self._titles: list[str] = []
        self._rows = 0

    def lines(self, cells: dict[str, str], is_best: bool, width: int | None = None) -> tuple[str | None, str]:
        """Return the header if it is due, and the row, with a star if it is the best.

        Args:
            cells: title of the column to text.
            width: characters that the row may have; None for no limit.
        """
        titles = _fitting(list(cells), width)
        header = None
        if titles != self._titles or self._rows % _HEADER_INTERVAL == 0:
            self._titles, self._rows = titles, 0
            header = "".join(f"{title:>{_width(title)}}" for title in titles)
        self._rows += 1
        row = "".join(f"{cells[title]:>{_width(title)}}" for title in titles)
        return header, row + ("  *" if is_best else "")


def metric_table(split: str, values: dict[str, float]) -> list[str]:
    """Return lines with the metrics of all classes and of each class.

    Args:
        split: evaluated split, such as ``val``.
        values: metrics by name, such as ``map_50`` and ``map_class/NAME``.
    """
    columns = {**OPERATING_POINT, "mAP50-95": "map", "mAP50": "map_50", "mAP75": "map_75",
               "small": "map_small", "medium": "map_medium", "large": "map_large"}  # fmt: skip
    classes = [name.removeprefix("map_class/") for name in values if name.startswith("map_class/")]
    width = max(len(name) for name in (split, "all classes", *classes))
    cells = [number(values.get(key), ".4f") for key in columns.values()]
    lines = [
        f"{split:<{width}}" + "".join(f"{title:>10}" for title in columns),
        f"{'all classes':<{width}}" + "".join(f"{cell:>10}" for cell in cells),
    ]
    for name in classes:
        figures = [values.get(f"{key}_class/{name}") for key in columns.values()]
        texts = ["" if figure is None else number(figure, ".4f") for figure in figures]
        lines.append((f"{name:<{width}}" + "".join(f"{text:>10}" for text in texts)).rstrip())
    return lines


def _fitting(titles: list[str], width: int | None) -> list[str]:
    for title in _EXPENDABLE:
        if width is not None and sum(map(_width, titles)) + len("  *") > width:
            titles = [other for other in titles if other != title]
    return titles


def _width(title: str) -> int:
    return _LEFT_WIDTH if title == "left" else max(len(title) + 1, _WIDTH)
