"""Rules for every file of the package: size, docstrings, names, declared dependencies."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from .test_imports import PACKAGE, imports

FILES = sorted(file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py"))
FUNCTION_LINES, FILE_LINES = 60, 500


def public_without_docstring(source: str) -> list[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [node for node in ast.parse(source).body if isinstance(node, kinds) and node.name[0] != "_"]
    return [node.name for node in public if not ast.get_docstring(node)]


def long_functions(source: str) -> list[str]:
    """Functions whose code, without docstring, is longer than a screen."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
            if (node.end_lineno or 0) - first.lineno + 1 > FUNCTION_LINES:
                found.append(node.name)
    return found


def test_the_readers_see_what_is_wrong() -> None:
    source = 'def told():\n    """Yes."""\ndef untold(): ...\nclass Untold: ...\ndef _private(): ...'
    assert public_without_docstring(source) == ["untold", "Untold"]
    assert long_functions("def f():\n" + "    x = 1\n" * 61 + "def g():\n" + "    x = 1\n" * 60) == ["f"]


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_one_subject_with_docstrings(file: str) -> None:
    source = (PACKAGE / file).read_text()
    assert len(source.splitlines()) <= FILE_LINES
    assert public_without_docstring(source) == []
    assert long_functions(source) == []


def undeclared(package: Path, pyproject: str) -> list[str]:
    """Modules of others that the package imports and pyproject.toml does not name among its dependencies."""
    blocks = re.findall(r"^(?:dependencies|[a-z0-9]+) = \[.*?$(.*?)^\]$", pyproject, flags=re.M | re.S)
    entries = re.findall(r'^\s*"([^"]+)"', "".join(blocks), re.M)  # of the package and of its extras
    declared = {re.split(r"[\[<>=!~ ]", entry)[0].lower() for entry in entries}
    used = {name[0] for file in package.rglob("*.py") for _, name in imports(file, package)}
    # IPython imports us, in a notebook; aim is there if its logger is.
    used -= {*sys.stdlib_module_names, package.name, "IPython", "aim"}
    return sorted(name for name in used if SHIPPED_BY.get(name, name).lower() not in declared)


SHIPPED_BY = {
    "litert_torch": "litert-torch",
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "pynvml": "nvidia-ml-py",
    "ultralytics": "ultralytics-opencv-headless",
    "yaml": "pyyaml",
}
"""Name of a module -> name of its package, where they differ."""


def test_every_imported_package_is_a_declared_dependency() -> None:
    assert undeclared(PACKAGE, (PACKAGE.parent / "pyproject.toml").read_text()) == []


def test_the_dependency_check_sees_one_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "step.py").write_text("import torch\nimport cv2\nimport os\nfrom scipy import optimize")
    pyproject = 'dependencies = [\n    "torch>=2.8",  # tensors\n    "opencv-python-headless",\n]\n'
    assert undeclared(tmp_path, pyproject) == ["scipy"]


def test_there_is_no_utils_module() -> None:
    assert [file for file in FILES if re.search(r"(^|[/_])(utils?|helpers?|misc)\.py$", file)] == []


def test_durations_are_measured_by_a_clock_that_nobody_sets() -> None:
    """The wall clock tells dates alone: the age of another host's file, and the time of a line."""
    dates = {"system/files.py", "distributed/watch.py"}
    wall = re.compile(r"\btime\.time\(|\bfrom time import time\b|\bdatetime\.(now|today)\b")
    assert {file for file in FILES if wall.search((PACKAGE / file).read_text())} == dates
