"""CONTRIBUTING.md names only files and functions that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "yolo_lightning"
TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text()
REFERENCE = re.compile(r"^([\w./-]+\.(?:py|md|sh|yaml|toml|css|j2))(?::([\w.]+))?$")
"""A file, and after a colon a function, a class or ``Class.method`` in it."""


def missing(text: str) -> list[str]:
    """References in backticks, and files of the tree, that do not exist."""
    found = []
    for quoted in re.findall(r"`([^`\n]+)`", text):
        match = REFERENCE.match(quoted)
        if match and not _exists(match[1], match[2]):
            found.append(quoted)
    return found + [name for name in tree(text) if not (PACKAGE / name).exists()]


def _exists(name: str, defined: str | None) -> bool:
    file = next((base / name for base in (PACKAGE, REPOSITORY) if (base / name).is_file()), None)
    if file is None or defined is None:
        return file is not None
    body: list[ast.stmt] = ast.parse(file.read_text()).body
    for part in defined.split("."):
        node = next((node for node in body if part in _names(node)), None)
        if node is None:
            return False
        body = getattr(node, "body", [])
    return True


def _names(node: ast.stmt) -> set[str]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def tree(text: str) -> list[str]:
    """Paths below the package in the indented drawing that begins with its name."""
    drawing = re.search(r"^```\w*\nyolo_lightning/\n(.*?)^```", text, flags=re.M | re.S)
    assert drawing is not None
    found: list[str] = []
    folders: dict[int, str] = {}
    for line in drawing[1].splitlines():
        name = line.split()[0] if line.strip() else ""
        depth = len(line) - len(line.lstrip())
        if re.fullmatch(r"[\w.]+/|[\w.]+\.py", name):
            above = [folder for level, folder in sorted(folders.items()) if level < depth]
            path = (above[-1] if above else "") + name
            found.append(path)
            if name.endswith("/"):
                folders = {level: folder for level, folder in folders.items() if level < depth} | {
                    depth: path
                }
    return found


def test_everything_it_names_exists() -> None:
    assert missing(TEXT) == []


def test_the_tree_is_whole() -> None:
    """Every room and every file outside of subfolders' detail stands in the drawing."""
    drawn = set(tree(TEXT))
    files = {file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py")}
    assert {name for name in files if not name.endswith("__init__.py")} - drawn == set()


def test_the_reader_sees_what_is_missing() -> None:
    text = (
        "`training/step.py` `training/gone.py` `training/ema.py:gone`\n"
        "`training/module.py:YOLOv5.training_step`\n"
        "```\nyolo_lightning/\n  data/      files\n    batch.py   text\n    gone.py\n  gone/\n```\n"
    )
    assert missing(text) == ["training/gone.py", "training/ema.py:gone", "data/gone.py", "gone/"]
