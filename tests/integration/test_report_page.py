"""The report of a real run, opened in a real browser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.support.browser import browser  # noqa: F401

_PROGRAM = """
import atexit, sys, time
print(time.monotonic(), file=sys.stderr)
atexit.register(lambda: print(time.monotonic(), time.time(), file=sys.stderr))  # the first one is called last
from yolo_lightning.__main__ import main
main()
"""


@dataclass(frozen=True)
class Fit:
    """A run, and how long its program took by our clock, until nothing was left but Python's own end.

    A busy machine can take seconds for what comes after a file was written, see ``seconds_until``.
    """

    directory: Path
    seconds: float
    end: float
    """Of the clock of files."""

    def seconds_until(self, name: str) -> float:
        """How long it took until a file of the run was as it is."""
        return self.seconds - (self.end - (self.directory / name).stat().st_mtime)


@pytest.fixture(scope="module")
def fit(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Fit:
    """Two epochs of YOLOv5n on the built-in pictures, in a process of its own."""
    folder = tmp_path_factory.mktemp("runs")
    command = [
        sys.executable, "-c", _PROGRAM, "fit", "--data.root", shapes, "--data.image_size", "64",
        "--data.batch_size", "5", "--data.num_workers", "0", "--trainer.max_epochs", "2", "--model.compile",
        "false", "--model.channels_last", "false", "--trainer.precision", "32-true", "--runs_dir", folder,
    ]  # fmt: skip
    done = subprocess.run(
        [*map(str, command)], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    lines = done.stderr.splitlines()
    begin, (end, end_of_files) = float(lines[0]), map(float, lines[-1].split())
    return Fit(folder / "fit" / "version_0", end - begin, end_of_files)


def test_the_time_budget_is_the_time_of_the_program(fit: Fit) -> None:
    budget = json.loads((fit.directory / "time_budget.json").read_text())
    seconds = budget["seconds"]
    assert all(value >= 0 for value in seconds.values())
    assert sum(seconds.values()) == pytest.approx(budget["wall_seconds"], rel=0.02)
    assert fit.seconds_until("time_budget.json") - 2 < budget["wall_seconds"] <= fit.seconds
    for phase in ("start_up", "step", "validation", "checkpoints"):
        assert seconds[phase] > 0, phase


@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_opens_by_itself(fit: Fit, browser: Browser, width: int) -> None:  # noqa: F811
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.set_default_timeout(120_000)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    address = (fit.directory / "report.html").as_uri()
    try:
        page.goto(address)
        assert said == []
        assert [url for url in asked if not url.startswith("data:")] == [address]
        headings = page.locator("h2").all_inner_texts()
        for title in ("Results", "Curves", "Time budget", "Hardware and versions", "Next steps"):
            assert title in headings
        # Nothing sticks out at the side, on a phone neither.
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        assert page.locator("#curves img").count() >= 6
        rows = page.locator("#time tbody td:nth-of-type(1)").all_inner_texts()
        total = page.locator("#time tfoot td:nth-of-type(1)").inner_text()
        assert sum(round(10 * float(row)) for row in rows) == round(10 * float(total))
        # The file is written once more after the report, which takes time itself; training is over by then.
        seconds = json.loads((fit.directory / "time_budget.json").read_text())["seconds"]
        shown = dict(zip(page.locator("#time tbody th").all_inner_texts(), map(float, rows), strict=True))
        names = {"Start-up": "start_up", "Training step": "step", "Validation": "validation"}
        for title, phase in names.items():
            assert shown[title] == pytest.approx(seconds[phase], abs=0.11), title  # its rounding
        assert float(total) <= sum(seconds.values()) + 0.06
        assert str(fit.directory / "checkpoints" / "last.ckpt") in page.locator("#next").inner_text()
    finally:
        page.close()
