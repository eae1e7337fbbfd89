"""Stands in for what the peers import but do not need to train."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

UNNEEDED = (
    "boto3",
    "botocore",
    "fire",
    "git",
    "matplotlib",
    "pandas",
    "polars",
    "psutil",
    "requests",
    "roboflow",
    "sahi",
    "scipy",
    "seaborn",
    "tensorboard",
    "thop",
)
"""Replaced where they are not installed."""


class Nothing:
    """An object that can be called, iterated over and asked for anything, and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        return

    def __call__(self, *_: Any, **__: Any) -> Nothing:
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing()


class _Stand(types.ModuleType):
    """A module that has every name; names with a capital are classes, which may be derived from."""

    __path__: list[str] = []  # noqa: RUF012  # so that it has submodules

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name.endswith("Error") or name.endswith("Exception"):
            return type(name, (Exception,), {})
        return type(name, (Nothing,), {}) if name[:1].isupper() else Nothing()


class StandFinder:
    """Finds a stand-in for each of the given packages and their submodules."""

    def __init__(self, packages: Sequence[str]) -> None:
        self.packages = frozenset(packages)

    def find_spec(
        self, name: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.split(".")[0] not in self.packages:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Stand(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        return


def substitute(outdated: Sequence[str] = ()) -> list[str]:
    """Make a peer importable in this process; return what was put in place of what.

    Args:
        outdated: packages that are replaced although they are installed.
    """
    missing = [name for name in UNNEEDED if importlib.util.find_spec(name) is None]
    replaced = sorted({*missing, *outdated})
    done = [f"an empty module for {name}" for name in replaced]
    sys.meta_path.insert(0, StandFinder(replaced))
    if not hasattr(np, "trapz"):
        np.trapz = np.trapezoid  # type: ignore[attr-defined]
        done.append("numpy.trapezoid for numpy.trapz")
    folder = Path(os.environ["YOLOV5_CONFIG_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("Arial.ttf", "Arial.Unicode.ttf"):  # looked for, but read only where plots are drawn
        if not (folder / name).exists():
            (folder / name).touch()
            done.append(f"an empty {name}")
    return done
