from __future__ import annotations

import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor

import matplotlib
import numpy as np
import pytest

from tests.support.evaluations import X, evaluation_of
from tests.support.report_run import NASTY
from yolo_lightning.monitoring.pictures.figures import printable, to_svg
from yolo_lightning.monitoring.pictures.plots import plot_confusion, plot_curves, plot_precision_recall

SVG = "{http://www.w3.org/2000/svg}"


def plot(names: list[str]) -> str:
    curves = np.linspace(0.9, 0.2, len(names))[:, None] * (1 - X**2)
    return to_svg(plot_precision_recall(evaluation_of(curves, names)))


def texts(svg: str) -> list[str]:
    return [str(text.text) for text in ET.fromstring(svg).iter(f"{SVG}text")]


def test_text_stays_text_and_is_escaped() -> None:
    found = texts(plot(["<script>", NASTY]))
    assert "recall" in found and "<script> 0.598" in found
    assert any(text.startswith(NASTY[:10]) for text in found)


def test_colours_follow_the_theme_of_the_reader() -> None:
    svg = plot(["cat", "dog"])
    assert "prefers-color-scheme:dark" in svg
    style = ET.fromstring(svg).findall(f"{SVG}style")[-1].text or ""
    drawn = svg.replace(style, "")
    assert "#1f2933" not in drawn and "#000000" not in drawn and "#ffffff" not in drawn
    assert "#1f77b4" in drawn  # a class has the same colour in both


def test_many_classes_do_not_make_it_large() -> None:
    names = [f"class number {i}" for i in range(600)]
    assert len(plot(names)) < 150_000
    assert sum(text.startswith("class number") for text in texts(plot(names))) == 8


def test_several_threads_draw_what_one_draws_and_leave_the_options_alone() -> None:
    def draw(number: int) -> str:
        if number % 2:
            return to_svg(plot_confusion(np.eye(3, dtype=np.int64) * number, ["a", "b"]))
        return to_svg(plot_curves([("a", [(0, 0), (1, number)])], "x"))

    before = matplotlib.rcParams["svg.fonttype"]
    alone = [draw(number) for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(draw, range(8))) == alone
    assert matplotlib.rcParams["svg.fonttype"] == before == "path"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat", "cat"), ("_x", " _x"), ("$x^$", r"\$x^\$"), ("猫", "class 0"), ("a\x00", "class 0"),
        ("n" * 9, "nnnnnnn…"),
    ],
)  # fmt: skip
def test_names_that_matplotlib_cannot_draw_are_changed(name: str, shown: str) -> None:
    assert printable([name], 8) == [shown]
