import pytest

from yolo_lightning.errors import InputError
from yolo_lightning.system.text import clock, duration, first_line, last_line, one_line


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
