from __future__ import annotations

import io
import math
import sys

import pytest

from yolo_lightning.monitoring.screen.display import Bar, Display


def line(bar: Bar, width: int, ascii_only: bool = False) -> str:
    return "".join(text for text, _ in bar.pieces(width, now=141.0, ascii_only=ascii_only))


@pytest.fixture
def bar() -> Bar:
    return Bar("epoch 3/30", 28, 100.0, done=12, notes=["run 12:34 left", "box 0.0512", "85.3 images/s"])


def test_a_wide_line_has_everything(bar: Bar) -> None:
    assert line(bar, 200) == (
        "epoch 3/30  43% ━━━━━━━━━━━━━━━━━─────────────────────── 12/28  0:41  run 12:34 left  box 0.0512  "
        "85.3 images/s"
    )


@pytest.mark.parametrize("width", range(1, 120))
def test_no_line_is_wider_than_the_terminal(bar: Bar, width: int) -> None:
    assert len(line(bar, width)) <= width


def test_what_matters_least_goes_first(bar: Bar) -> None:
    assert line(bar, 78).endswith("12/28  0:41  run 12:34 left  box 0.0512")
    assert line(bar, 55).endswith("── 12/28  0:41  run 12:34 left")
    assert line(bar, 40).endswith("── 12/28  0:41")
    assert line(bar, 32) == "epoch 3/30  43% 12/28  0:41"
    assert line(bar, 15) == "epoch 3/30  43%"


def test_ends_of_a_bar(bar: Bar) -> None:
    bar.notes, bar.done = [], 0
    assert line(bar, 45) == "epoch 3/30   0% ────────────────── 0/28  0:41"
    bar.done = 28
    assert "─" not in line(bar, 60) and line(bar, 60).startswith("epoch 3/30 100% ━")
    bar.done = 27
    assert "━── 27/28" in line(bar, 60)


def test_without_a_total_it_counts() -> None:
    bar = Bar("testing", math.inf, 100.0, done=12, notes=["slowly"])
    assert line(bar, 60) == "testing 12  0:41  slowly"


def test_nothing_to_do() -> None:
    assert line(Bar("testing", 0, 100.0), 60).startswith("testing   0% ─")


def test_a_terminal_without_unicode(bar: Bar) -> None:
    bar.notes = []
    assert line(bar, 45, ascii_only=True) == "epoch 3/30  43% #######.......... 12/28  0:41"


def test_a_log_gets_lines_alone(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display()
    bar = display.open("testing", math.inf, 0.0)
    display.draw(1.0)
    display.print("a line", style="bold green")
    display.close(bar, bar)
    assert capsys.readouterr().out == "a line\n"
    assert not display.is_due(1e9) and display.bars == []


def test_a_line_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    Display().print("≥12:34")
    assert raw.getvalue() == b"?12:34\n"

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    Display().print("a line")
