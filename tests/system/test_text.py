import pytest

from yolo_lightning.errors import InputError
from yolo_lightning.system.text import (
    clock,
    duration,
    first_line,
    has_more_values,
    last_line,
    one_line,
    printable,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0:00"), (0.4, "0:00"), (59.6, "1:00"), (754, "12:34"), (3599.4, "59:59"), (3600, "1:00:00"),
        (35999, "9:59:59"), (36000, "10h00m"), (360000, "100h00m"),
    ],
)  # fmt: skip
def test_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_durations() -> None:
    texts = ["0.0 s", "8.2 s", "3 min 20 s", "59 min 59 s", "1 h 00 min", "100 h 01 min"]
    assert [duration(seconds) for seconds in (0, 8.24, 200, 3599.4, 3599.6, 360061)] == texts


def test_a_text_of_several_lines_becomes_one() -> None:
    assert one_line(" a\n  b\t c ") == "a b c"
    assert one_line("abcdef", 4) == "abc…" and one_line("abcd", 4) == "abcd"


def test_the_first_and_the_last_line_of_an_error() -> None:
    assert first_line(ValueError("\nbad\nworse")) == "ValueError: bad"
    assert first_line(ValueError()) == "ValueError:" and last_line(ValueError()) == ""
    assert len(first_line(ValueError("x" * 500))) == 160
    from_worker = InputError("Traceback:\n  line 3\nyolo_lightning.errors.InputError: a.jpg: is empty\n")
    assert last_line(from_worker) == last_line(InputError("a.jpg: is empty")) == "a.jpg: is empty"


def test_no_letter_is_a_command_to_the_terminal() -> None:
    assert printable("\x1b]0;x\x07 red\r\nb \u202e\ud800 é 猫") == "?]0;x? red??b ?? é 猫"
    assert last_line(InputError("a\x1b[31m.jpg: broken")) == "a?[31m.jpg: broken"


def test_values_are_counted_as_often_as_they_are_named() -> None:
    bomb: object = 0
    for _ in range(40):
        bomb = [bomb, {"again": bomb}]
    assert has_more_values(bomb, 1_000_000)
    endless: list[object] = []
    endless.append(endless)
    assert has_more_values(endless, 100)
    assert not has_more_values({"a": [1, 2], "b": {"c": "text"}}, 6) and has_more_values([1, 2, 3], 3)
