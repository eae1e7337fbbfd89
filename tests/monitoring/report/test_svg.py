import xml.etree.ElementTree as ET

import pytest

from yolo_lightning.monitoring.report.markup import Markup, join, tag
from yolo_lightning.monitoring.report.svg import (
    HEIGHT,
    WIDTH,
    Line,
    line_chart,
    tick_step,
    tick_text,
    ticks,
)


def test_text_is_escaped_and_markup_is_not() -> None:
    inner = tag("b", "<i>", 1, None, 0.1234567891)
    assert inner == "<b>&lt;i&gt;10.123457</b>"
    assert tag("p", inner, "&", title='"') == f'<p title="&quot;">{inner}&amp;</p>'
    assert tag("img", src="x", alt=None) == '<img src="x"/>'
    assert join([["<", [Markup("<")]], None]) == "&lt;<"


@pytest.mark.parametrize(
    ("span", "about", "step"), [(1, 4, 0.2), (30, 6, 5), (4, 4, 1), (0.0232, 4, 0.005), (7e5, 4, 2e5)]
)
def test_steps_are_round(span: float, about: int, step: float) -> None:
    assert tick_step(span, about) == pytest.approx(step)


def test_ticks_are_within_the_range() -> None:
    assert ticks(-0.21, 0.4, 0.2) == pytest.approx([-0.2, 0, 0.2, 0.4])
    assert ticks(0.98, 3.02, 1) == [1, 2, 3]


def test_ticks_are_written_alike() -> None:
    assert [tick_text(v, 0.02) for v in (1e-17, 0.02, 0.1, 0.12)] == ["0", "0.02", "0.10", "0.12"]
    assert [tick_text(v, 5) for v in (0, 5, 10)] == ["0", "5", "10"]
    assert tick_text(20_000, 10_000) == "20k"
    assert tick_text(3e-9, 1e-9) == "3.0e-09"


def numbers(text: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in text.split())]


def drawing(chart: str) -> ET.Element:
    return ET.fromstring(chart[chart.index("<svg") :])


def test_a_line_goes_through_its_points() -> None:
    line = Line("a <b>", [(0, 0), (0.5, 1), (1, 0)], "c0")
    chart = line_chart([line], "recall", unit=True)
    assert "a &lt;b&gt;" in chart
    [path] = [p for p in drawing(chart).iter("polyline")]
    (x0, y0), (x1, y1), (x2, y2) = numbers(path.attrib["points"])
    assert y0 == y2 > y1 and x1 == pytest.approx((x0 + x2) / 2)
    dots = [d for d in drawing(chart).iter("circle")]
    assert [(float(d.attrib["cx"]), float(d.attrib["cy"])) for d in dots] == [(x0, y0), (x1, y1), (x2, y2)]


@pytest.mark.parametrize(
    "points",
    [
        [(1, 0.5)],
        [(1, 0.0), (2, 0.0)],
        [(1, 1e-9), (2, 2e-9)],
        [(1, -3), (2, 1e6)],
        [(n, n % 7) for n in range(2000)],
    ],
)
def test_everything_stays_within_the_chart(points: list[tuple[float, float]]) -> None:
    for options in ({}, {"from_zero": True}, {"whole_x": True}):
        root = drawing(line_chart([Line("a", points, "c0")], "epoch", mark=(1, "best"), **options))
        [path] = root.iter("polyline")
        for x, y in numbers(path.attrib["points"]):
            assert 0 <= x <= WIDTH and 0 <= y <= HEIGHT
        assert len(numbers(path.attrib["points"])) <= 400


def test_a_line_of_zeros_lies_on_the_ground() -> None:
    root = drawing(line_chart([Line("a", [(1, 0.0), (2, 0.0)], "c0")], "epoch", from_zero=True))
    assert not [text.text for text in root.iter("text") if str(text.text).startswith("-")]
    [path] = root.iter("polyline")
    lowest = max(float(line.attrib["y1"]) for line in root.iter("line") if line.attrib["class"] == "grid")
    assert {y for _, y in numbers(path.attrib["points"])} == {lowest}


def test_the_values_of_an_epoch_are_told_under_the_pointer() -> None:
    lines = [Line("train", [(1, 0.5), (2, 0.25)], "train"), Line("val", [(2, 0.75)], "val")]
    told = [title.text for title in drawing(line_chart(lines, "epoch", whole_x=True)).iter("title")]
    assert told == ["epoch 1\ntrain 0.5", "epoch 2\ntrain 0.25\nval 0.75"]


def test_nothing_gives_no_chart() -> None:
    assert line_chart([], "epoch") == "" == line_chart([Line("a", [], "c0")], "epoch")


def test_faint_lines_are_not_in_the_legend() -> None:
    chart = line_chart([Line("one of many", [(0, 0), (1, 1)], "mute", is_faint=True)], "x", unit=True)
    assert "one of many" not in chart.split("<svg")[0]
