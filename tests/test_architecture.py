"""Reads the imports of the package and fails when a room reaches where it may not.

The rules are the tables below. A room may import the rooms in its row, files of its own folder, and
``errors``, which anybody may import. ``name.*`` means the folder ``name`` and every file in it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "yolo_lightning"
NAME = PACKAGE.name

MATHEMATICS = {"losses.*", "postprocess", "augment.*", "metrics"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "boxes": set(),
    "batch": set(),
    "model.*": {"boxes"},
    "optim": {"boxes"},
    "compilation": set(),  # decides from device and precision whether to compile
    "allocator": set(),  # memory that a step frees, kept for the next
    "atomic": set(),  # small files that are never half
    "background": set(),  # work that nobody waits for
    "dashboard": set(),  # what a run shows of itself, as options
    "display.*": set(),  # bars on a terminal and in a notebook
    "health.*": set(),  # readings of a GPU to figures and sentences
    "confusion": {"matching"},
    "curves": {"confusion", "matching"},  # precision and recall against confidence
    "pictures.*": {"boxes", "batch", "matching", "curves", "confusion"},  # arrays to pictures, on the CPU
    "features.*": {"model.*"},  # what layers make of an image
    "report.*": {"atomic", "runs"},  # files of a run to a page
    "accumulation": set(),  # sums gradients over micro-batches
    "parser": set(),  # options that are wrong, and messages that are held back
    "settings": {"data.*", "model.*", "module", "strategy"},  # options made definite, or refused
    "storage.*": set(),  # checkpoint files that are never half
    "checkpoint_io": {"storage.*", "runs"},
    "runs": {"storage.*"},  # folders and files of a run, and its metrics
    "resumption": set(),  # what a checkpoint says about its run
    "preemption": set(),  # signals that ask a run to stop
    "preflight.*": {"data.*"},  # what all ranks must have alike before they train
    "cluster.*": set(),  # batch scripts
    "strategy": set(),  # DDP and its options
    "losses.*": {"boxes", "batch"},
    "postprocess": {"boxes", "batch"},
    "augment.*": {"boxes", "batch"},
    "matching": {"boxes", "batch"},
    "metrics": {"boxes", "batch", "matching", "curves"},
    "diagnosis": set(),  # measurements of a run to words
    "streams": set(),  # the CUDA stream beside the network's
    "data.*": {"boxes", "batch", "diagnosis", "display.*", "streams"},
    "training": {"model.*", "losses.*", "augment.*", "batch", "streams"},  # network and loss as one function
    "evaluation": {"boxes", "batch", "model.*", "postprocess"},  # maps to detections
    "module": {"boxes", "batch", "model.*", "optim", "compilation", "accumulation", "training", "evaluation"}
    | {"streams"}
    | MATHEMATICS,
    "measure.*": {"boxes", "batch", "model.*", "optim", "compilation", "training", "data.*", "streams"}
    | MATHEMATICS,  # what is fastest on this machine
    "callbacks.*": {"module", "batch", "runs", "diagnosis", "streams", "preemption", "checkpoint_io"}
    | {"preflight.*", "boxes", "matching", "augment.*", "model.*", "background", "curves", "display.*"}
    | {"features.*", "health.*", "pictures.*", "report.*", "atomic", "data.cores"},
    "equipment": {"background", "callbacks.*", "checkpoint_io", "dashboard", "runs"},
    "commands.*": {"*"},
    "step_choice": {"augment.*", "compilation", "measure.*"},  # what was left to auto
    "ranks": {"callbacks.*", "model.*", "preflight.*", "settings", "strategy"},  # how processes meet
    "launcher": {
        "callbacks.*",
        "dashboard",
        "data.*",
        "equipment",
        "module",
        "preflight.*",
        "ranks",
        "resumption",
        "runs",
        "settings",
        "step_choice",
        "storage.*",
        "strategy",
    },
    "dry_launcher": {"launcher"},  # for the doctor
    "cli": {"*"},
    "__main__": {"cli", "preemption", "preflight.failure", "storage.*"},
    "__init__": {"module", "data.module", "equipment"},  # the names of the public interface
}
LIGHTNING = {"cli", "launcher", "parser", "commands.*", "module", "data.module", "callbacks.*"}
LIGHTNING |= {"checkpoint_io", "dry_launcher", "equipment", "ranks", "step_choice", "strategy"}
"""Only these import Lightning; the rest runs and is tested without it."""
ONLY_IMPORTED_BY: dict[str, set[str]] = {"cli": {"__main__"}, "commands.*": {"cli"}, "__main__": set()}
"""Rooms that nobody else may import."""

Imports = list[tuple[int, str]]
"""Line and dotted name of each thing imported."""


def covers(pattern: str, room: str) -> bool:
    return pattern in {"*", room} or (pattern.endswith(".*") and f"{room}.".startswith(pattern[:-1]))


def rooms(package: Path) -> dict[str, Path]:
    """Dotted name below the package -> file; a folder's ``__init__.py`` goes by the folder's name."""
    found = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = file
    return found


def imports(file: Path, package: Path) -> Imports:
    """Absolute names that a file imports, relative ones resolved; anywhere in the file."""
    folder = [package.name, *file.relative_to(package).parent.parts]
    found: Imports = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{origin}.{alias.name}") for alias in node.names]
    return found


def imported_rooms(file: Path, package: Path, known: dict[str, Path]) -> Iterator[tuple[int, str]]:
    """Rooms of ours among the imports: the longest prefix of each name that is a room."""
    for line, name in imports(file, package):
        parts = name.split(".")
        if parts[0] != package.name:
            continue
        if parts[1:2] == ["*"] or len(parts) == 1:
            yield line, "__init__"
            continue
        ends = range(len(parts), 1, -1)
        yield line, next((room for end in ends if (room := ".".join(parts[1:end])) in known), "__init__")


def violations(package: Path) -> list[str]:
    """One line for each import that breaks a rule."""
    known, found = rooms(package), []
    edges: dict[str, set[str]] = {room: set() for room in known}
    for room, file in known.items():
        row = next((row for row in MAY_IMPORT if covers(row, room)), None)
        if row is None:
            found.append(f"{room} has no row in MAY_IMPORT: say there whom it may import")
            continue
        for line, other in imported_rooms(file, package, known):
            edges[room].add(other)
            same_folder = row.endswith(".*") and covers(row, other)
            allowed = other == "errors" or same_folder or any(covers(name, other) for name in MAY_IMPORT[row])
            doors = [by for pattern, by in ONLY_IMPORTED_BY.items() if covers(pattern, other)]
            shut = not same_folder and any(room not in by for by in doors)
            if not allowed or shut:
                found.append(f"{room}:{line} may not import {other}")
        if not any(covers(name, room) for name in LIGHTNING):
            for line, name in imports(file, package):
                if name.split(".")[0] in {"lightning", "pytorch_lightning", "lightning_fabric"}:
                    found.append(f"{room}:{line} may not import Lightning")
    return found + [f"ring of imports: {' -> '.join(ring)}" for ring in rings(edges)]


def rings(edges: dict[str, set[str]]) -> list[list[str]]:
    """Rings of imports, each once; importing one's own folder is no ring."""
    found: list[list[str]] = []
    done: set[str] = set()

    def walk(room: str, path: list[str]) -> None:
        if room in path:
            found.append([*path[path.index(room) :], room])
        elif room not in done:
            for other in sorted(edges.get(room, ())):
                walk(other, [*path, room])
            done.add(room)

    for room in sorted(edges):
        walk(room, [])
    return found


def test_nobody_imports_whom_they_may_not() -> None:
    assert violations(PACKAGE) == []


def test_every_row_of_the_table_is_a_room() -> None:
    known = rooms(PACKAGE)
    named = {*MAY_IMPORT, *LIGHTNING, *ONLY_IMPORTED_BY, *(n for row in MAY_IMPORT.values() for n in row)} - {
        "*"
    }
    assert [name for name in sorted(named) if not any(covers(name, room) for room in known)] == []


def build(folder: Path, files: dict[str, str]) -> Path:
    """A package of empty rooms, with these files in place of some of them."""
    package = folder / NAME
    empty = [
        "__init__",
        "__main__",
        "cli",
        "module",
        "boxes",
        "batch",
        "errors",
        "optim",
        "metrics",
        "matching",
    ]
    empty += ["augment/__init__", "model/__init__", "model/network", "losses/__init__", "losses/anchor"]
    empty += [
        "data/__init__",
        "data/index",
        "data/module",
        "callbacks/__init__",
        "callbacks/ema",
        "commands/synth",
    ]
    for name in empty:
        file = package / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(files.get(name, ""))
    return package


ALLOWED = {
    "__init__": "from .module import YOLOv5",
    "__main__": "from .cli import main",
    "cli": "import lightning\nfrom yolo_lightning.module import YOLOv5\nfrom .commands.synth import synth",
    "module": "from lightning.pytorch import Trainer\nfrom .losses import anchor\nfrom . import batch",
    "model/network": "from ..boxes import box_area\nfrom . import anything",
    "losses/anchor": "from ..errors import InputError\nfrom yolo_lightning import boxes",
    "losses/__init__": "from .anchor import AnchorLoss",
    "data/module": "import lightning.pytorch as L\nfrom .index import DatasetIndex",
    "metrics": "import torch, lightning_utilities\nfrom .matching import match",
}


def test_the_reader_accepts_what_is_allowed(tmp_path: Path) -> None:
    assert violations(build(tmp_path, ALLOWED)) == []


@pytest.mark.parametrize(
    ("room", "code", "expected"),
    [
        ("boxes", "from .batch import Batch", "boxes:1 may not import batch"),
        ("boxes", "import yolo_lightning.batch", "boxes:1 may not import batch"),
        ("boxes", "from yolo_lightning.batch import Batch", "boxes:1 may not import batch"),
        ("boxes", "from yolo_lightning import batch", "boxes:1 may not import batch"),
        ("boxes", "from . import batch", "boxes:1 may not import batch"),
        ("batch", "def f():\n    from . import boxes", "batch:2 may not import boxes"),
        ("model/network", "from ..batch import Batch", "model.network:1 may not import batch"),
        ("model/network", "from .. import YOLOv5", "model.network:1 may not import __init__"),
        ("losses/anchor", "from ..model.network import f", "losses.anchor:1 may not import model.network"),
        ("losses/anchor", "from ..model import network", "losses.anchor:1 may not import model.network"),
        ("losses/anchor", "import lightning.pytorch", "losses.anchor:1 may not import Lightning"),
        ("data/index", "from lightning import Trainer", "data.index:1 may not import Lightning"),
        ("data/index", "from ..module import YOLOv5", "data.index:1 may not import module"),
        ("data/__init__", "from ..losses import x", "data:1 may not import losses"),
        ("module", "from .data.index import f", "module:1 may not import data.index"),
        ("callbacks/ema", "from ..data.module import f", "callbacks.ema:1 may not import data.module"),
        ("module", "from .cli import main", "module:1 may not import cli"),
        ("commands/synth", "from ..cli import main", "commands.synth:1 may not import cli"),
        ("__main__", "from .commands.synth import synth", "__main__:1 may not import commands.synth"),
    ],
)
def test_the_reader_sees_a_broken_rule(room: str, code: str, expected: str, tmp_path: Path) -> None:
    assert expected in violations(build(tmp_path, {room: code}))


def test_the_reader_sees_a_ring(tmp_path: Path) -> None:
    files = {"losses/anchor": "from . import other", "losses/__init__": "from .anchor import AnchorLoss"}
    package = build(tmp_path, files)
    (package / "losses" / "other.py").write_text("from .anchor import AnchorLoss")
    ring = "ring of imports: losses.anchor -> losses.other -> losses.anchor"
    assert violations(package) == [ring]


def test_the_reader_sees_a_room_without_a_rule(tmp_path: Path) -> None:
    package = build(tmp_path, {})
    (package / "helpers.py").write_text("")
    assert violations(package) == ["helpers has no row in MAY_IMPORT: say there whom it may import"]


def public_without_docstring(source: str) -> list[str]:
    tree = ast.parse(source)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    return [node.name for node in public if not ast.get_docstring(node)]


def test_the_docstring_check_sees_one_that_is_missing() -> None:
    source = 'def told():\n    """Yes."""\ndef untold(): ...\nclass Untold: ...\ndef _private(): ...'
    assert public_without_docstring(source) == ["untold", "Untold"]


@pytest.mark.parametrize("room", list(rooms(PACKAGE)))
def test_a_file_is_one_idea_that_says_what_it_offers(room: str) -> None:
    source = rooms(PACKAGE)[room].read_text()
    assert len(source.splitlines()) <= 300
    assert public_without_docstring(source) == []


def undeclared(package: Path, pyproject: str) -> list[str]:
    """Modules of others that the package imports and pyproject.toml does not name among its dependencies."""
    block = re.search(r"^dependencies = \[$(.*?)^\]$", pyproject, flags=re.M | re.S)
    assert block is not None
    declared = {
        re.split(r"[\[<>=!~ ]", entry)[0].lower() for entry in re.findall(r'^\s*"([^"]+)"', block[1], re.M)
    }
    used = {name.split(".")[0] for file in package.rglob("*.py") for _, name in imports(file, package)}
    used -= {*sys.stdlib_module_names, package.name, *THERE_ALREADY}
    return sorted(name for name in used if SHIPPED_BY.get(name, name).lower() not in declared)


THERE_ALREADY = {"IPython"}
"""Imported only by whoever is run by it."""

SHIPPED_BY = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "pynvml": "nvidia-ml-py",
    "ultralytics": "ultralytics-opencv-headless",
    "yaml": "pyyaml",
}
"""Name of a module -> name of its package, where they differ."""


def test_every_package_that_is_imported_is_a_declared_dependency() -> None:
    assert undeclared(PACKAGE, (PACKAGE.parent / "pyproject.toml").read_text()) == []


def test_the_dependency_check_sees_one_that_is_missing(tmp_path: Path) -> None:
    package = build(tmp_path, {"optim": "import torch\nimport cv2\nimport os\nfrom scipy import optimize"})
    pyproject = 'dependencies = [\n    "torch>=2.8",  # tensors\n    "opencv-python-headless",\n]\n'
    assert undeclared(package, pyproject) == ["scipy"]


def test_there_is_no_utils_module() -> None:
    assert [room for room in rooms(PACKAGE) if re.search(r"(^|[._])(utils?|helpers?|misc)$", room)] == []
