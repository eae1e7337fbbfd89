"""Checkpoint files put on the disk so that none is ever half."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import torch

from ..errors import InputError
from ..system.files import bring_to_disk, remove_leftovers, temporary_name, whole_file
from .checkpoint_damage import fault, has_end, previous_path
from .snapshot import bytes_in

with suppress(ImportError):
    # torch.save imports it when it is first called. A process that is forked while the writing thread does
    # would find the module's lock taken for ever, and with it its own torch.save.
    import torch.utils.serialization.config

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "it would be larger than files may be here (see ulimit -f)",
}


class NoSpace(InputError):
    """There is no room for a checkpoint; those that were written before are whole."""


def full_disk_error(error: BaseException | None) -> OSError | None:
    """The error that says "no room" (disk, quota or limit on files) among an error and its causes."""
    return next((each for each in _os_errors(error) if each.errno in _FULL), None)


def _os_errors(error: BaseException | None) -> Iterator[OSError]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError):
            yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def write(contents: object, path: str | Path, keep_previous: bool = False) -> None:
    """Write a checkpoint so that at every moment ``path`` or the one before it is a whole file.

    It is written to a temporary file in the same folder, brought to the disk, and moved into place. What
    killed processes left there is removed first.

    Args:
        contents: anything that ``torch.save`` takes.
        path: the file; its folder is made if need be.
        keep_previous: keep the present file as :func:`previous_path`.

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
    """Let ``path`` be the file ``source`` too, by the rules of :func:`write`: one file of two names.

    Where the file system knows no such thing it is copied.

    Raises:
        NoSpace, OSError: as :func:`write`.
    """

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
