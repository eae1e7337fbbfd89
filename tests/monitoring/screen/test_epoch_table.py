from __future__ import annotations

import pytest

from yolo_lightning.monitoring.screen.epoch_table import EpochTable, metric_table, number

CELLS = {
    "epoch": "12/300", "box": "0.0512", "obj": "0.0213", "cls": "0.0101", "mAP50": "0.9034",
    "mAP50-95": "0.5912", "images/s": "1312.4", "data wait": "3%", "seconds": "1234.5", "left": "≥9:59:59",
}  # fmt: skip


def titles(width: int | None) -> list[str]:
    header, row = EpochTable().lines(CELLS, is_best=True, width=width)
    assert header is not None and (width is None or max(len(header), len(row)) <= max(width, 29))
    return header.replace("data wait", "data_wait").split()


def test_a_log_has_every_column_apart_from_the_next() -> None:
    header, row = EpochTable().lines(CELLS, is_best=True)
    assert header and len(header.replace("data wait", "data_wait").split()) == len(CELLS)
    assert row.split() == [*CELLS.values(), "*"]
    assert len(row) == len(header) + 3


@pytest.mark.parametrize(
    ("width", "missing"),
    [
        (200, ()),
        (80, ("data_wait",)),
        (61, ("data_wait", "images/s", "seconds")),
        (40, ("data_wait", "images/s", "seconds", "cls", "obj", "box")),
        (10, ("data_wait", "images/s", "seconds", "cls", "obj", "box", "mAP50")),
    ],
)
def test_a_narrow_terminal_does_without_what_matters_least(width: int, missing: tuple[str, ...]) -> None:
    assert set(titles(None)) - set(titles(width)) == set(missing)


def test_a_terminal_that_is_made_narrower_gets_a_new_header() -> None:
    table = EpochTable()
    assert table.lines(CELLS, False, 200)[0]
    assert not table.lines(CELLS, False, 200)[0]
    assert table.lines(CELLS, False, 70)[0]
    assert not table.lines(CELLS, False, 70)[0]


def test_every_20_rows_there_is_a_header() -> None:
    table = EpochTable()
    assert [n for n in range(50) if table.lines(CELLS, False)[0]] == [0, 20, 40]


def test_what_there_is_not_is_a_dash() -> None:
    assert [number(value, ".1f") for value in (None, float("nan"), -1.0, 0.0, 2.25)] == [
        "-", "-", "-", "0.0", "2.2",
    ]  # fmt: skip


def test_a_table_of_classes() -> None:
    values = {"map": 0.5, "map_50": 0.75, "map_small": -1.0, "map_class/a long class name": 0.25}
    assert [line.split("  ")[0] for line in metric_table("val", values)] == [
        "val", "all classes", "a long class name",
    ]  # fmt: skip
    assert [line.split()[-1] for line in metric_table("val", values)] == ["large", "-", "0.2500"]
