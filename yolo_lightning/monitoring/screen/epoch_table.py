"""The printed rows of epochs, as YOLO users know them."""

from __future__ import annotations

from ..metric_names import number

_HEADER_INTERVAL = 20
"""Rows between two headers."""
_EXPENDABLE = ("data wait", "images/s", "seconds", "cls", "dfl", "obj", "box", "mAP50")
"""Columns that a narrow terminal leaves out, in this order."""
_LEFT_WIDTH, _WIDTH = 9, 8


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
    """Return lines with the mean average precision of all classes and of each class.

    Args:
        split: evaluated split, such as ``val``.
        values: metrics by name, such as ``map_50`` and ``map_class/NAME``; negative if there is no object.
    """
    columns = {"mAP50-95": "map", "mAP50": "map_50", "mAP75": "map_75",
               "small": "map_small", "medium": "map_medium", "large": "map_large"}  # fmt: skip
    classes = {n.removeprefix("map_class/"): v for n, v in values.items() if n.startswith("map_class/")}
    width = max(len(name) for name in (split, "all classes", *classes))
    cells = [number(values.get(key), ".4f") for key in columns.values()]
    return [
        f"{split:<{width}}" + "".join(f"{title:>10}" for title in columns),
        f"{'all classes':<{width}}" + "".join(f"{cell:>10}" for cell in cells),
        *(f"{name:<{width}}{number(value, '.4f'):>10}" for name, value in classes.items()),
    ]


def _fitting(titles: list[str], width: int | None) -> list[str]:
    for title in _EXPENDABLE:
        if width is not None and sum(map(_width, titles)) + len("  *") > width:
            titles = [other for other in titles if other != title]
    return titles


def _width(title: str) -> int:
    return _LEFT_WIDTH if title == "left" else max(len(title) + 1, _WIDTH)
