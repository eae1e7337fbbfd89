"""Damaged checkpoint files: how to recognise them, and the file to resume from instead."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from ..errors import InputError

_ZIP_START = b"PK\x03\x04"
_IS_FOLDER = 0x10  # among the attributes of a record


def previous_path(path: str | Path) -> Path:
    """Path of the previous checkpoint: ``last.ckpt`` -> ``last.previous.ckpt``."""
    path = Path(path)
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def fault(path: str | Path) -> str | None:
    """Describe the damage of a checkpoint file in a few words that follow its name; None if it is whole.

    All of it is read, because torch ignores the checksums of the records when it loads.
    """
    path = Path(path)
    if not path.is_file():
        return "is not a file" if path.exists() else "is missing"
    try:
        with path.open("rb") as file:
            start = file.read(len(_ZIP_START))
        if not start:
            return "is empty"
        if not has_end(path):
            return "is cut short" if _ZIP_START.startswith(start) else "is not a checkpoint, or damaged"
        return _fault_in_records(path) or _fault_in_loading(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def has_end(path: Path) -> bool:
    """Tell a file with a checkpoint's end from a torn one, without reading the rest."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


def _fault_in_records(path: Path) -> str | None:
    damaged: str | None
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            for record in archive.infolist():
                # Torch compresses nothing, and reads nothing from what is marked as a folder.
                if record.compress_type != zipfile.ZIP_STORED or record.external_attr & _IS_FOLDER:
                    damaged = record.filename
    except Exception:  # damage can break the format anywhere
        damaged = "its directory"
    return f"is damaged in {damaged!r}" if damaged is not None else None


def _fault_in_loading(path: Path) -> str | None:
    """Open the file with torch, which maps the tensors without reading them again."""
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        return None  # whole, but it holds more than tensors and plain values
    except Exception:
        return "is not a checkpoint, or damaged in its directory"
    return None


def newest_whole(path: str | Path, announce: Callable[[str], object]) -> Path:
    """Choose the checkpoint to resume from: ``path``, or the previous one if ``path`` is damaged or missing.

    Args:
        path: a checkpoint.
        announce: called with one sentence if the previous checkpoint is used.

    Raises:
        InputError: neither of them is whole.
    """
    path, previous = Path(path), previous_path(path)
    wrong = fault(path)
    if wrong is None:
        return path
    wrong_before = fault(previous)
    if wrong_before is None:
        announce(f"{path}: {wrong}; {previous}, the checkpoint before it, is used instead")
        return previous
    also = f", and {previous.name} beside it {wrong_before}" if previous.exists() else ""
    raise InputError(f"{path}: {wrong}{also}; a damaged file cannot be used, give another checkpoint")
