"""A real browser for tests of pages: the system's Chromium, without a window.

A test module that wants it imports the fixture: ``from tests.support.browser import browser  # noqa: F401``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PACKAGES = ("chromium", "fonts-dejavu-core")
"""Debian's names. Without a font no text is drawn."""
_ARGUMENTS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu")
"""Root may not use the sandbox, and containers have a small /dev/shm."""

_START_MS = 200_000
"""How long it may take to start, on a busy machine."""

_open: list[Browser] = []
"""The one browser of all modules: of Playwright only one can run at a time."""


class BrowserMissing(Exception):
    """There is no Chromium here and none can be installed; says why."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium. On a machine of CI it is an error if there can be none."""
    if _open:  # another module's, which outlives this one
        yield _open[0]
        return
    try:
        program = find_browser()
    except BrowserMissing as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=program, headless=True, args=[*_ARGUMENTS], timeout=_START_MS
        )
        _open.append(opened)
        try:
            yield opened
        finally:
            _open.clear()
            opened.close()


def find_browser() -> str:
    """Path of a Chromium; it is installed where we are root on Debian or Ubuntu.

    Raises:
        BrowserMissing: there is none, and it cannot be installed.
    """
    found = _on_path()
    if found is None:
        _install()
        found = _on_path()
    if found is None:
        names = ", ".join(PROGRAMS)
        raise BrowserMissing(f"{PACKAGES[0]} is installed now, but none of {names} is there")
    return found


def _on_path() -> str | None:
    return next((path for path in map(shutil.which, PROGRAMS) if path), None)


def _install() -> None:
    missing = f"none of {', '.join(PROGRAMS)} is on this machine"
    if shutil.which("apt-get") is None:
        raise BrowserMissing(f"{missing}, and there is no apt-get that could install it")
    if os.getuid() != 0:
        raise BrowserMissing(f"{missing}, and only root can install it: apt-get install {PACKAGES[0]}")
    _apt("update")
    _apt("install", "-y", "--no-install-recommends", *PACKAGES)


def _apt(*arguments: str) -> None:
    command = ["apt-get", "-q", "-oDPkg::Lock::Timeout=120", *arguments]
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(command, env=quiet, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        raise BrowserMissing(f"{' '.join(command)} took more than 300 s") from None
    if done.returncode:
        raise BrowserMissing(f"{' '.join(command)} failed: {done.stderr[-1000:]}")
