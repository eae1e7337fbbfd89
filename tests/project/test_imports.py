"""The rooms of the package in one order: each imports only rooms above it.

The rule is the list; CONTRIBUTING.md explains it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "yolo_lightning"
ORDER = (
    "errors", "system", "data", "model", "evaluation", "training", "distributed", "runs", "performance",
    "monitoring", "inference", "export", "cli", "__init__", "__main__",
)  # fmt: skip
STRANGERS = ({"data", "model"}, {"evaluation", "distributed"})
"""Rooms that do not know each other although one stands above the other."""
AGAINST_THE_ORDER = {("inference/detector", "cli")}
"""``Detector.export`` imports ``export_model`` when it is called, so that users find all in one object."""
USES_LIGHTNING = ("training/module", "training/ema", "data/module", *(f"{room}/" for room in ORDER[6:13]))
"""Beginnings of the files that import Lightning; everything else runs without it."""


def imports(file: Path, package: Path) -> Iterator[tuple[int, list[str]]]:
    """Line and absolute dotted name, as parts, of everything that a file imports."""
    folder = (package.name, *file.relative_to(package).parent.parts)
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(folder[: len(folder) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            yield from ((node.lineno, [*base, alias.name]) for alias in node.names)


def violations(package: Path) -> list[str]:
    """One line for each import that breaks the rule."""
    found = []
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package).with_suffix("")
        room = name.parts[0]
        for line, target in imports(file, package):
            if target[0] in {"lightning", "pytorch_lightning", "lightning_fabric"}:
                if not name.as_posix().startswith(USES_LIGHTNING):
                    found.append(f"{name}:{line} imports Lightning")
            elif target[0] == package.name:
                other = target[1] if target[1] in ORDER else "__init__"
                if (name.as_posix(), other) in AGAINST_THE_ORDER:
                    continue
                if other != room and (ORDER.index(other) > ORDER.index(room) or {other, room} in STRANGERS):
                    found.append(f"{name}:{line} imports {other}")
    return found


def test_a_room_imports_only_rooms_above_it() -> None:
    assert violations(PACKAGE) == []


def test_every_room_has_its_place() -> None:
    found = {path.stem for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert found == set(ORDER)


@pytest.mark.parametrize(
    ("file", "code", "expected"),
    [
        ("data/batch", "from ..training.step import f", "data/batch:1 imports training"),
        (
            "data/loading/sampler",
            "def f():\n    from ... import YOLOv5",
            "data/loading/sampler:2 imports __init__",
        ),
        ("model/boxes", "import yolo_lightning.data.batch", "model/boxes:1 imports data"),
        ("distributed/ddp", "from ..evaluation import detect", "distributed/ddp:1 imports evaluation"),
        ("model/network", "import lightning.pytorch", "model/network:1 imports Lightning"),
        ("runs/record", "from yolo_lightning.system.files import f\nimport lightning", None),
    ],
)
def test_the_reader_sees_a_broken_rule(file: str, code: str, expected: str | None, tmp_path: Path) -> None:
    path = tmp_path / PACKAGE.name / f"{file}.py"
    path.parent.mkdir(parents=True)
    path.write_text(code)
    assert violations(tmp_path / PACKAGE.name) == ([expected] if expected else [])


def cycles(package: Path) -> list[list[str]]:
    """Circles of imports among files."""
    files = {file.relative_to(package.parent).with_suffix("").parts: file for file in package.rglob("*.py")}
    edges: dict[str, set[str]] = {}
    for name, file in files.items():
        targets = {
            tuple(target[:end]) for _, target in imports(file, package) for end in range(2, len(target) + 1)
        }
        edges["/".join(name)] = {"/".join(target) for target in targets & files.keys()}
    found: list[list[str]] = []
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for other in sorted(edges[name]):
                walk(other, [*path, name])
            done.add(name)

    for name in sorted(edges):
        walk(name, [])
    return found


def test_no_file_imports_itself_through_others() -> None:
    assert cycles(PACKAGE) == []


def test_the_reader_sees_a_circle(tmp_path: Path) -> None:
    room = tmp_path / PACKAGE.name / "data"
    room.mkdir(parents=True)
    (room / "batch.py").write_text("from . import letterbox")
    (room / "letterbox.py").write_text("def f():\n    from .batch import Batch")
    assert [len(circle) for circle in cycles(room.parent)] == [3]
