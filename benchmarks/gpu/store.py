"""The one file that a suite leaves, written whole after every part: what is finished is never lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..results import write_result


class Store:
    """Readings by the name of their part, in ``FOLDER/NAME.json``.

    One file, because a machine that is lent may give only few files back. It is replaced by renaming,
    so that whoever reads it finds all the parts that were finished by then.

    Args:
        folder: where the file lies, or will.
        name: of the file, and of what is measured.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.path = folder / f"{name}.json"
        self.content: dict[str, Any] = {"benchmark": name, "calls": [], "parts": {}}
        if self.path.exists():
            self.content = json.loads(self.path.read_text())

    @property
    def parts(self) -> dict[str, dict[str, Any]]:
        """What was recorded, by part: ``{"reading": …}`` or ``{"error": …}``, and ``wall_s``."""
        parts: dict[str, dict[str, Any]] = self.content["parts"]
        return parts

    def is_finished(self, name: str, retry: bool = False) -> bool:
        """Whether a part need not run: it has a reading, or has failed and ``retry`` is not asked for."""
        entry = self.parts.get(name)
        return entry is not None and not (retry and "error" in entry)

    def record(self, name: str, entry: dict[str, Any]) -> None:
        """Keep a part's outcome, on disk when this returns."""
        self.parts[name] = entry
        self.save()

    def save(self) -> None:
        """Replace the file."""
        write_result(self.folder, self.content)
