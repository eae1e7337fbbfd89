"""The scripts of the README: what they install and which tests they run, with a stand-in for Python."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
PYTHON = """#!/bin/bash
case "$*" in
-c*) exit 0 ;;  # "is pip there?"
*) printf '<%s>' "$@" >>"$LOG"; echo >>"$LOG" ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with the scripts and an environment whose Python writes down its arguments."""
    shutil.copytree(SCRIPTS, tmp_path / "scripts")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "yolo-lightning"):
        (programs / name).write_text(PYTHON)
        (programs / name).chmod(0o755)
    return tmp_path


def calls(clone: Path, script: str, *arguments: str) -> list[str]:
    """Arguments of each call of Python and yolo-lightning that a script makes."""
    log = clone / "log"
    log.unlink(missing_ok=True)
    environment = {"LOG": str(log), "PATH": "/usr/bin:/bin"}
    subprocess.run(["bash", clone / "scripts" / script, *arguments], env=environment, check=True)
    return log.read_text().splitlines() if log.exists() else []


def installed(clone: Path, script: str, *arguments: str) -> list[str]:
    """Extras that pip installs, one entry a call."""
    found = [line for line in calls(clone, script, *arguments) if "<install>" in line]
    return [line.rpartition("<--editable><")[2].rstrip(">").removeprefix(str(clone)) for line in found]


def test_the_quickstart_installs_the_package_and_the_tests_add_their_tools(clone: Path) -> None:
    assert installed(clone, "run_quickstart.sh") == [""]
    assert installed(clone, "run_quickstart.sh") == []
    assert installed(clone, "run_tests.sh") == ["[dev]"]
    assert installed(clone, "run_tests.sh") == []
    assert installed(clone, "run_quickstart.sh") == []


def test_a_changed_pyproject_or_another_place_installs_again(clone: Path, tmp_path: Path) -> None:
    assert installed(clone, "setup.sh", "--dev") == ["[dev]"]
    (clone / "pyproject.toml").write_text("[project]\nversion = '2'\n")
    assert installed(clone, "setup.sh") == [""]
    assert installed(clone, "setup.sh", "--dev") == ["[dev]"]
    moved = clone.rename(tmp_path.with_name(f"{tmp_path.name} moved"))
    assert installed(moved, "setup.sh", "--dev") == ["[dev]"]


def test_a_failed_installation_is_repeated(clone: Path) -> None:
    python = clone / ".venv" / "bin" / "python"
    python.write_text(PYTHON.replace('echo >>"$LOG"', "exit 1"))
    with pytest.raises(subprocess.CalledProcessError):
        calls(clone, "setup.sh")
    python.write_text(PYTHON)
    assert installed(clone, "setup.sh") == [""]


def test_an_unknown_option_is_refused(clone: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        calls(clone, "setup.sh", "--development")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "<-m><not long>"),
        (["-k", "boxes"], "<-m><not long><-k><boxes>"),
        (["--all"], ""),
        (["--all", "-x"], "<-x>"),
    ],
)
def test_long_tests_run_only_when_asked_for(clone: Path, arguments: list[str], expected: str) -> None:
    found = calls(clone, "run_tests.sh", *arguments)
    own = "<-m><pytest><--numprocesses><2><--dist><loadfile><--no-loadscope-reorder>"
    assert own + expected in found
    assert {"<-m><ruff><check><.>", "<-m><mypy>"} < set(found)
