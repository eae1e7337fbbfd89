"""A short run of every fuzz target; ``python -m tests.fuzz all --minutes 10`` is the long one."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.fuzz.__main__ import fuzz
from tests.fuzz.targets import TARGETS, Target
from yolo_lightning.errors import InputError

ROOT = Path(__file__).parents[2]


def test_every_reader_gives_a_result_or_an_input_error() -> None:
    """In a process of its own, because the limit of its memory cannot be lifted again."""
    command = [sys.executable, "-m", "tests.fuzz", "all", "--examples", "50"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-5000:]
    found = re.findall(r"^(\w+): (\d+) read, (\d+) refused, none else", done.stdout, re.MULTILINE)
    assert [name for name, *_ in found] == list(TARGETS)
    one_sided = {name for name, *counts in found if "0" in counts}  # such examples would test little
    assert one_sided <= {"run"}  # which has few


def test_another_exception_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(_: Path, number: int) -> None:
        if number > 90:
            raise KeyError("no such thing")
        if number > 50:
            raise InputError("too much")

    target = Target(st.integers(0, 100), lambda _: None, read)
    monkeypatch.setitem(TARGETS, "numbers", target)
    assert not fuzz("numbers", minutes=0, examples=200)
    assert "KeyError: 'no such thing'" in capsys.readouterr().err
    monkeypatch.setitem(TARGETS, "numbers", Target(st.integers(0, 90), lambda _: None, read))
    assert fuzz("numbers", minutes=0, examples=200)
    assert re.search(r"numbers: \d+ read, \d+ refused", capsys.readouterr().out)
