from __future__ import annotations

import warnings
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import matplotlib
import numpy as np
import pytest

from tests.support.report_run import NASTY
from yolo_lightning.monitoring.pictures.draw_boxes import Pixels
from yolo_lightning.monitoring.pictures.plots import (
    Evaluation,
    plot_confidence,
    plot_confusion,
    plot_curves,
    plot_precision_recall,
    printable,
    to_pixels,
    to_svg,
)

NAMES = [f"class number {i}" for i in range(80)]
X = np.linspace(0, 1, 101)
SVG = "{http://www.w3.org/2000/svg}"


def evaluation_of(curves: np.ndarray, names: Sequence[str], **others: Any) -> Evaluation:
    """An evaluation whose curves are all these, (C, 101) at ``X``."""
    by_confidence = dict.fromkeys(("precision", "recall", "f1", "pr_precision"), curves)
    values: dict[str, Any] = {
        "epoch": 0,
        "confidence": X,
        "pr_recall": X,
        "ap_50": curves.mean(axis=1),
        "confusion": np.zeros((len(names) + 1,) * 2, np.int64),
        "best_confidence": None,
        "best_f1": None,
    }
    return Evaluation(**values | by_confidence | {"class_names": list(names)} | others)


@pytest.fixture(autouse=True)
def no_warnings() -> None:
    """Such as of a letter that the font lacks; the log of a run would be full of them."""
    warnings.simplefilter("error")
    # A file that another test has left open is closed, with a warning, whenever the garbage is collected.
    warnings.simplefilter("ignore", ResourceWarning)


def falling(classes: int) -> np.ndarray:
    """(C, 101) curves, each class above the next."""
    return np.linspace(0.9, 0.2, classes)[:, None] * (1 - X**2)


def precision_recall(classes: int, names: list[str] = NAMES) -> Pixels:
    return to_pixels(plot_precision_recall(evaluation_of(falling(classes), names[:classes])))


def confidence(classes: int) -> Pixels:
    found = evaluation_of(falling(classes), NAMES[:classes], best_confidence=0.3, best_f1=0.5)
    return to_pixels(plot_confidence(found))


def confusion_pixels(confusion: np.ndarray, names: list[str]) -> Pixels:
    return to_pixels(plot_confusion(confusion, names))


def is_drawn(pixels: Pixels, colour: str) -> bool:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((np.abs(pixels.astype(int) - wanted).max(axis=-1) < 6).any())


@pytest.mark.parametrize("classes", [1, 3, 80])
def test_pictures_are_rgb(classes: int) -> None:
    for pixels, shape in ((precision_recall(classes), (600, 900, 3)), (confidence(classes), (390, 1100, 3))):
        assert (pixels.shape, pixels.dtype) == (shape, np.uint8)
        assert is_drawn(pixels, "#1f2933") == (classes > 1 or shape[1] == 1100)  # the mean, or the best F1
        assert is_drawn(pixels, "#1f77b4")  # the best class
        assert is_drawn(pixels, "#aab6c2") == (classes > 10)  # those that are too many for a colour each


def test_a_class_without_annotations_is_left_out() -> None:
    curves = falling(3)
    curves[1] = np.nan
    with_it = to_pixels(plot_precision_recall(evaluation_of(curves, NAMES[:3])))
    assert is_drawn(with_it, "#ff7f0e")
    assert not is_drawn(with_it, "#2ca02c")  # the colour of a third
    curves[:] = np.nan
    nothing = to_pixels(plot_precision_recall(evaluation_of(curves, NAMES[:3])))
    assert not is_drawn(nothing, "#1f77b4")
    plot_confidence(evaluation_of(curves, NAMES[:3]))


@pytest.mark.parametrize(
    "name", ["_hidden", "$x^$", "a_$b", "猫", "a name that is longer than any column is wide"]
)
def test_any_name_can_be_drawn(name: str) -> None:
    drawn, other = precision_recall(2, ["cat", name]), precision_recall(2, ["cat", "."])
    assert (drawn != other).any()
    confusion_pixels(np.eye(2, dtype=np.int64), [name])


def cell(pixels: Pixels, classes: int, row: int, column: int) -> np.ndarray:
    """The colour of a cell near its corner, where no number is."""
    # The matrix is the largest thing with a black frame: its edges are the longest black lines.
    black = pixels.astype(int).sum(axis=-1) < 60
    xs = np.flatnonzero(black.sum(axis=0) > 0.5 * black.sum(axis=0).max())
    ys = np.flatnonzero(black.sum(axis=1) > 0.5 * black.sum(axis=1).max())
    side = (ys[-1] - ys[0]) / (classes + 1)
    return pixels[int(ys[0] + (row + 0.15) * side), int(xs[0] + (column + 0.15) * side)].astype(int)


@pytest.mark.parametrize("classes", [1, 3, 80])
def test_the_colour_of_a_cell_is_its_part_of_the_column(classes: int) -> None:
    confusion = np.full((classes + 1, classes + 1), 0)
    np.fill_diagonal(confusion, 80)
    confusion[-1, 0] = 20  # missed: a fifth of the column of class 0
    confusion[0, -1], confusion[-1, -1] = 5000, 0
    pixels = confusion_pixels(confusion, NAMES[:classes])
    assert pixels.dtype == np.uint8
    assert max(pixels.shape) < 2100  # it is looked at on a screen
    most, much, little = (cell(pixels, classes, *at) for at in ((0, classes), (0, 0), (classes, 0)))
    nothing = cell(pixels, classes, classes, classes)
    assert most.sum() < much.sum() < little.sum() < nothing.sum()
    assert nothing.min() > 230


def test_the_matrix_of_very_many_classes_is_no_larger() -> None:
    pixels = confusion_pixels(np.diag(np.full(1204, 5)), [str(i) for i in range(1203)])
    assert pixels.dtype == np.uint8
    assert 2000 < max(pixels.shape) <= 2600


def test_counts_are_written_where_there_is_room() -> None:
    one, other = np.diag([7, 7, 7, 0]), np.diag([8, 8, 8, 0])
    # Of equal parts, so that nothing but numbers can differ.
    assert (confusion_pixels(one, NAMES[:3]) != confusion_pixels(other, NAMES[:3])).any()


def test_a_large_matrix_lists_the_most_frequent_confusions() -> None:
    confusion = np.diag(np.full(81, 50))
    plain = confusion_pixels(confusion, NAMES)
    confusion[3, 5] += 10
    listed = confusion_pixels(confusion, NAMES)
    beside = slice(int(plain.shape[1] * 0.84), None)
    assert (plain[:, beside] < 100).sum() < (listed[:, beside] < 100).sum()


def test_a_line_goes_through_its_points() -> None:
    points = [(1, 0.5), (2, 0.25), (4, 0.75)]
    lines = [("a", points), ("none", []), ("b", [(1, 0.4)])]
    axes = plot_curves(lines, "epoch", has_legend=True, mark=(4, "best: 4")).axes[0]
    first, second, mark = axes.lines
    assert [*zip(*first.get_data(), strict=True)] == points
    assert second.get_label() == "b" and second.get_color() == "C2" and list(mark.get_xdata()) == [4, 4]
    assert axes.get_ylim()[0] == 0
    legend = axes.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["a", "b"]


@pytest.mark.parametrize(
    "points",
    [
        [(1, 0.5)],
        [(1, 0.0), (2, 0.0)],
        [(1, 1e-9), (2, 2e-9)],
        [(1, -3), (2, 1e6)],
        [(n, n % 7) for n in range(999)],
    ],
)
@pytest.mark.parametrize("from_zero", [False, True])
def test_any_values_can_be_drawn(points: list[tuple[float, float]], from_zero: bool) -> None:
    shown = [(x, abs(y) if from_zero else y) for x, y in points]
    figure = plot_curves([("a", shown)], "epoch", from_zero=from_zero, mark=(1, "best"))
    pixels = to_pixels(figure)
    assert pixels.shape == (250, 390, 3) and is_drawn(pixels, "#1f77b4")
    low, high = figure.axes[0].get_ylim()
    assert all(low <= y <= high for _, y in shown)


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
