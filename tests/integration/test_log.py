"""What a run of the command line writes: to a file, as under nohup or Slurm, and to a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.screen import Screen
from yolo_lightning.data.synthetic import make_dataset

EPOCHS = 30
WIDTH = 160  # paths of the tests fit in a line
PROGRAM = [sys.executable, "-m", "yolo_lightning"]
OF_DATA = ["--data.root=shapes", "--data.image_size=64", "--data.batch_size=4"]
OF_FIT = [
    *OF_DATA, "--model.compile=false", "--model.channels_last=true", "--trainer.precision=32-true",
    "--trainer.accelerator=cpu", "--trainer.devices=1",
]  # fmt: skip
ROW = re.compile(r"\s+(\d+)/\d+ .*", re.ASCII)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the built-in data in it, of 8 and 4 images."""
    folder = tmp_path_factory.mktemp("log")
    make_dataset(folder / "shapes", train_images=8, val_images=4, image_size=64)
    return folder


def environment(**changes: str) -> dict[str, str]:
    # Those of a test run would hide warnings, or set a width.
    others = {"PYTHONWARNINGS", "NO_COLOR", "COLUMNS", "LINES"}
    kept = {name: value for name, value in os.environ.items() if name not in others}
    return {**kept, "OMP_NUM_THREADS": "1", **changes}


def test_a_log_file_has_whole_lines_and_few_of_them(folder: Path) -> None:
    log = folder / "log.txt"
    with log.open("wb") as file:
        # Some CI services ask for colours whatever the output is.
        subprocess.run(
            [*PROGRAM, "fit", *OF_FIT, "--data.num_workers=0", f"--trainer.max_epochs={EPOCHS}"],
            cwd=folder, env=environment(TERM="xterm", FORCE_COLOR="1"),
            stdout=file, stderr=subprocess.STDOUT, check=True,
        )  # fmt: skip
    text = log.read_text()
    lines = text.splitlines()
    assert len(lines) < 200, text
    assert "\r" not in text and "\x1b" not in text
    rows = [line.split() for line in lines if ROW.fullmatch(line)]
    assert [row[0] for row in rows] == [f"{n}/{EPOCHS}" for n in range(1, EPOCHS + 1)]
    header = next(line for line in lines if "mAP50-95" in line)
    titles = header.replace("data wait", "wait").replace("F1 conf", "conf").split()
    assert titles[-1] == "left"
    left = [row[titles.index("left")] for row in rows]
    assert all(re.fullmatch(r"\d+:\d\d", each) for each in left) and left[-1] == "0:00"
    assert re.search(r"^run directory .*version_0$", text, re.MULTILINE)


class OnTerminal:
    """A program on a terminal of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.written = b""
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, WIDTH, 0, 0))
        self.process = subprocess.Popen(
            [*PROGRAM, *arguments], cwd=folder, env=environment(TERM="xterm-256color"),
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._master, 65536):
                self.written += data
        except OSError:  # of a terminal that nobody has open any more
            pass

    def wait_for(self, text: str, seconds: float = 120) -> None:
        until = time.monotonic() + seconds
        while text not in self.written.decode(errors="replace"):
            assert time.monotonic() < until and self.process.poll() is None, self.written.decode()
            time.sleep(0.05)

    def finish(self) -> tuple[int, Screen]:
        """Its status, and the screen that it leaves."""
        status = self.process.wait(120)
        self._reader.join(20)
        return status, Screen(WIDTH).write(self.written.decode())

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join(20)
        os.close(self._master)


@pytest.fixture
def terminals() -> Iterator[list[OnTerminal]]:
    opened: list[OnTerminal] = []
    yield opened
    for terminal in opened:
        terminal.end()


def test_a_terminal_has_bars_until_the_run_is_stopped(folder: Path, terminals: list[OnTerminal]) -> None:
    # A worker is forked while a bar is shown.
    options = [*OF_FIT, "--data.num_workers=1", "--trainer.max_epochs=500", "--run_name=stopped"]
    run = OnTerminal(folder, "fit", *options)
    terminals.append(run)
    run.wait_for("3/500 ")
    run.process.send_signal(signal.SIGINT)
    status, screen = run.finish()
    assert status == 75, screen.text
    assert "\x1b[" in run.written.decode() and "━" in run.written.decode()
    lines = screen.text.splitlines()
    numbers = [int(found[1]) for line in lines if (found := ROW.fullmatch(line))]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= 2
    assert not screen.is_cursor_hidden and screen.column == 0
    assert not re.search("[━─]", screen.text)
    assert any(line.startswith("stopped by SIGINT") for line in lines)
    assert [line.split()[0] for line in lines[-2:]] == ["curves", "report"]
