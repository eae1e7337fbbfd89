"""Checkpoint files: put on the disk so that none is ever half, and what to do about damaged ones."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import torch

from ..errors import InputError
from ..model.unpickle import is_bomb, is_stored
from ..system.files import bring_to_disk, remove_leftovers, temporary_name, whole_file
from ..system.out_of_memory import chain
from .snapshot import bytes_in

with suppress(ImportError):
    # torch.save imports it when it is first called. A process that is forked while the writing thread does
    # would find the module's lock taken for ever, and with it its own torch.save.
    import torch.utils.serialization.config

_ZIP_START = b"PK\x03\x04"
_IS_FOLDER = 0x10  # among the attributes of a record
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "it would be larger than files may be here (see ulimit -f)",
}


class NoSpace(InputError):
    """There is no room for a checkpoint; those that were written before are whole."""


def previous_path(path: str | Path) -> Path:
    """Path of the previous checkpoint: ``last.ckpt`` -> ``last.previous.ckpt``."""
    path = Path(path)
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def full_disk_error(error: BaseException | None) -> OSError | None:
    """The error that says "no room" (disk, quota or limit on files) among an error and its causes."""
    return next((each for each in _os_errors(error) if each.errno in _FULL), None)


def _os_errors(error: BaseException | None) -> Iterator[OSError]:
    return (each for each in chain(error) if isinstance(each, OSError))


def write(contents: object, path: str | Path, keep_previous: bool = False) -> None:
    """Write a checkpoint so that at every moment ``path`` or the one before it is a whole file.

    It is written to a temporary file in the same folder, which is made if need be, brought to the disk, and
    moved into place. What killed processes left there is removed first. ``keep_previous`` keeps the present
    file as :func:`previous_path`.

    Raises:
        NoSpace: there is no room; ``path`` and the one before it are as they were.
        OSError: it cannot be written for another reason.
    """

    def fill(temporary: Path) -> None:
        with temporary.open("xb") as file:
            try:
                torch.save(contents, file)
            except RuntimeError as error:  # torch raises it while it handles the one that says why
                raise next(_os_errors(error), error) from None

    _fill(Path(path), fill, bytes_in(contents), keep_previous)


def write_again(source: Path, path: Path, keep_previous: bool = False) -> None:
    """Let ``path`` be the file ``source`` too, as by :func:`write`; a copy if there are no hard links."""

    def fill(temporary: Path) -> None:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)

    _fill(path, fill, 0, keep_previous)


def _fill(path: Path, fill: Callable[[Path], None], needed: int, keep_previous: bool) -> None:
    """Have a temporary file made beside ``path`` and move it into place; see :func:`write`."""
    previous = previous_path(path)
    link = temporary_name(previous)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        free = _free_bytes(path.parent)
        if free is not None and free < needed:  # a disk filled to the brim would fail other writers too
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with whole_file(path, sync=False) as temporary:
            fill(temporary)
            bring_to_disk(temporary)
            # A present file that is visibly torn is not worth the place of the one before it.
            if keep_previous and path.is_file() and has_end(path):
                _link_or_move(path, link)
        if link.exists():  # not before: until the new one is in its place nothing has been given up
            os.replace(link, previous)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpace(_describe_no_space(path, needed, error)) from error
        raise
    finally:
        with suppress(OSError):
            link.unlink(missing_ok=True)


def _free_bytes(folder: Path) -> int | None:
    """Space left for this process in bytes; None if the file system does not tell."""
    status = os.statvfs(folder)
    blocks = status.f_bfree if os.geteuid() == 0 else status.f_bavail
    return blocks * status.f_frsize if status.f_blocks else None


def _link_or_move(path: Path, link: Path) -> None:
    """Give the present file a second name, ``link``; without hard links it moves to the previous one's."""
    try:
        os.link(path.resolve(), link)
    except OSError as error:
        if error.errno in _FULL:
            raise
        if fault(path) is None:
            os.replace(path, previous_path(path))


def _sync_folder(folder: Path) -> None:
    """Bring the names to the disk too; some file systems know no such thing for a folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno in _FULL:
            raise
    finally:
        os.close(handle)


def _describe_no_space(path: Path, needed: int, error: OSError) -> str:
    sizes = f"{needed / 1e6:,.1f} MB needed"
    with suppress(OSError):
        if error.errno == errno.ENOSPC and (free := _free_bytes(path.parent)) is not None:
            sizes += f", {free / 1e6:,.1f} MB free"
    whole = sorted(path.parent.glob("*.ckpt"), key=lambda file: file.stat().st_mtime_ns)
    remedy = (
        f"the earlier checkpoints are whole, make room and resume with --ckpt_path {whole[-1]}"
        if whole
        else "there is no earlier checkpoint, make room and start again"
    )
    return f"{path}: cannot be written, {_FULL[error.errno or 0]} ({sizes}); {remedy}"


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
            if is_bomb(path):
                return "is no checkpoint: it unpacks to more than it has"
            damaged = archive.testzip()
            for record in archive.infolist():
                if record.external_attr & _IS_FOLDER:  # torch reads nothing from it
                    damaged = record.filename
    except Exception:  # damage can break the format anywhere
        damaged = "its directory"
    return f"is damaged in {damaged!r}" if damaged is not None else None


def _fault_in_loading(path: Path) -> str | None:
    try:  # torch maps the tensors without reading them again
        if not is_stored(torch.load(path, map_location="cpu", weights_only=True, mmap=True)):
            return "has a tensor that is not stored whole"
    except pickle.UnpicklingError:
        return None  # whole, but it holds more than tensors and plain values
    except Exception:
        return "is not a checkpoint, or damaged in its directory"
    return None


def newest_whole(path: str | Path, announce: Callable[[str], object]) -> Path:
    """Choose the checkpoint to resume from: ``path``, or the previous one if ``path`` is damaged or missing.

    ``announce`` is called with one sentence if the previous checkpoint is used.

    Raises:
        InputError: neither of them is whole.
    """
    path, previous = Path(path), previous_path(path)
    if (wrong := fault(path)) is None:
        return path
    if (wrong_before := fault(previous)) is None:
        announce(f"{path}: {wrong}; {previous}, the checkpoint before it, is used instead")
        return previous
    also = f", and {previous.name} beside it {wrong_before}" if previous.exists() else ""
    raise InputError(f"{path}: {wrong}{also}; a damaged file cannot be used, give another checkpoint")
