from __future__ import annotations

import gc
import io
import logging
import os
import sys
import threading
import weakref

import pytest

from tests.support.screen import Screen
from yolo_lightning.monitoring.screen.progress import open_display
from yolo_lightning.monitoring.screen.terminal import TerminalDisplay


class Terminal(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> Screen:
        return Screen(60).write(self.getvalue())


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")


def begin(monkeypatch: pytest.MonkeyPatch) -> tuple[Terminal, TerminalDisplay]:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    display = open_display()
    assert isinstance(display, TerminalDisplay)
    return terminal, display


pytestmark = pytest.mark.usefixtures("environment")


def test_bars_below_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, display = begin(monkeypatch)
    display.print("before")
    first = display.open("training", 4, 0.0)
    second = display.open("validating", 2, 0.0)
    first.done, second.done = 4, 1
    display.draw(1.0)
    display.print("a line")
    lines = terminal.screen.text.splitlines()
    assert lines[:2] == ["before", "a line"]
    assert [line.split()[:2] for line in lines[2:]] == [["training", "100%"], ["validating", "50%"]]
    display.close(second)
    assert [line.split()[0] for line in terminal.screen.text.splitlines()] == ["before", "a", "training"]
    display.close(first)
    assert terminal.screen.text == "before\na line" and terminal.screen.column == 0
    assert sys.stdout is terminal
    display.open("again", 2, 2.0)
    assert terminal.screen.text.splitlines()[2].startswith("again   0% ─")


def test_a_line_wider_than_the_terminal_is_not_broken_into_words(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, display = begin(monkeypatch)
    display.open("training", 4, 0.0)
    display.print("/a/path with blanks/" * 5)
    assert "/a/path with blanks/" * 5 in terminal.getvalue()


def test_parts_of_lines_wait_for_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, display = begin(monkeypatch)
    bar = display.open("training", 4, 0.0)
    sys.stdout.write("one ")
    sys.stdout.write("line\nand a half")
    assert terminal.screen.text.splitlines()[0] == "one line"
    assert "half" not in terminal.screen.text
    display.close(bar)
    assert terminal.screen.text == "one line\nand a half"


def test_questions_are_asked_and_bars_of_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, display = begin(monkeypatch)
    display.open("training", 4, 0.0)
    sys.stdout.write("really? ")
    sys.stdout.flush()
    assert terminal.screen.text.splitlines()[0] == "really?"
    for percent in range(0, 101, 10):
        sys.stdout.write(f"\rdownloading {percent}%")
        sys.stdout.flush()
    assert "downloading" not in terminal.getvalue()
    sys.stdout.write("\r\n")
    assert terminal.screen.text.splitlines()[1] == "downloading 100%"


def test_other_streams_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    _, display = begin(monkeypatch)
    handler = logging.StreamHandler(errors)
    logger = logging.getLogger("tests.display")
    logger.addHandler(handler)
    try:
        display.open("training", 4, 0.0)
        assert sys.stderr is errors and handler.stream is errors
    finally:
        logger.removeHandler(handler)


def test_a_display_that_is_over_is_forgotten() -> None:
    display = weakref.ref(TerminalDisplay(io.StringIO()))
    gc.collect()
    assert display() is None


def test_threads_do_not_tear_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, display = begin(monkeypatch)
    bar = display.open("training", 200, 0.0)

    def talk(number: int) -> None:
        for _ in range(50):
            print(f"{number} " * 20)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for bar.done in range(200):
        display.draw(float(bar.done))
        if bar.done % 2:
            display.close(display.open("validating", 1, 0.0))
    for thread in threads:
        thread.join()
    display.close(bar)
    lines = terminal.screen.text.splitlines()
    assert sorted(lines) == sorted([(f"{n} " * 20).rstrip() for n in range(4)] * 50)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_the_streams_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, display = begin(monkeypatch)
    display.open("training", 4, 0.0)
    sys.stdout.write("half a line")
    held = threading.Thread(target=lambda: (display.lock.acquire(), ready.set(), done.wait(20)))
    ready, done = threading.Event(), threading.Event()
    held.start()
    ready.wait(20)  # another thread is drawing when the process is forked
    child = os.fork()
    if child == 0:
        is_given_back = sys.stdout is terminal and not terminal.getvalue().endswith("half a line")
        os._exit(0 if is_given_back and not display.is_live else 1)
    status = os.waitpid(child, 0)[1]
    done.set()
    held.join()
    assert status == 0
    assert sys.stdout is not terminal and display.is_live


def test_colours_of_others_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, display = begin(monkeypatch)
    display.open("training", 4, 0.0)
    print("\x1b[31mred\x1b[0m [bold]as it is[/bold]")
    assert terminal.screen.text.splitlines()[0] == "red [bold]as it is[/bold]"
    assert "red" in terminal.screen.coloured


def test_a_terminal_without_unicode_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ascii(Terminal):
        encoding = "ascii"  # type: ignore[assignment]

    terminal = Ascii()
    monkeypatch.setattr(sys, "stdout", terminal)
    open_display().open("training", 4, 0.0)
    assert terminal.getvalue().isascii() and terminal.screen.text.startswith("training   0% ....")


def test_what_cannot_be_drawn_ends_the_drawing_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, display = begin(monkeypatch)
    bar = display.open("training", 4, 0.0)
    bar.total = "four"  # type: ignore[assignment]
    with pytest.warns(UserWarning, match="progress is not shown any more"):
        display.draw(1.0)
    assert sys.stdout is terminal and not display.is_live
    display.print("a line")
    assert terminal.getvalue().endswith("a line\n")
    display.draw(2.0)
    display.close(bar)
