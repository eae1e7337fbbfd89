"""Lightning's CheckpointIO: whole files, written beside the training, with the previous one kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from .checkpoint_writer import BackgroundWriter
from .directory import LAST


class RunCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints by the rules of :mod:`yolo_lightning.runs`, on a thread of its own.

    When a save returns, the file is there: a new name is waited for, and a name that exists is the old
    whole file until the new one takes its place. An error of a write shows at the next save, at
    :meth:`wait`, or when the run ends. Lightning saves and removes on rank zero alone.

    Args:
        background: go on training while a checkpoint is written; without, each save is waited for, which
            a logger needs that sends every file away as soon as it was saved.
    """

    def __init__(self, background: bool = True) -> None:
        self.background = background
        self.saved: tuple[Any, str] | None = None
        """Position and path of the last save of an ``EpochCheckpoint``; the same on every rank."""
        self.keeps_errors = False
        """No save raises, because the other ranks would wait in it; see ``failed`` and :meth:`wait`."""
        self._kept: Exception | None = None
        self._writer = BackgroundWriter()

    @property
    def saves(self) -> int:
        """Checkpoints handed over to be written."""
        return self._writer.saves

    @property
    def stall_seconds(self) -> float:
        """Time that training was held for all saves, in s."""
        return self._writer.stall_seconds

    @property
    def failed(self) -> bool:
        """True if a write has failed and the error was not raised yet; does not wait."""
        return self._kept is not None or self._writer.failed

    def wait(self) -> None:
        """Return when every checkpoint saved so far is on the disk.

        Raises:
            NoSpace: there was no room for one.
            OSError: one could not be written for another reason.
        """
        kept, self._kept = self._kept, None
        if kept is not None:
            raise kept
        self._writer.wait()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        if storage_options is not None or not is_local(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        file = Path(path)
        with self._kept_errors():
            is_new = not file.is_file()
            self._writer.submit(checkpoint, file, keep_previous=file.name == LAST)
            if is_new or not self.background:
                self._writer.wait()

    def save_again(self, source: str | Path, path: str | Path) -> None:
        """Give what was saved as ``source`` another name, too; that costs next to nothing."""
        file = Path(path)
        with self._kept_errors():
            is_new = not file.is_file()
            self._writer.submit_again(Path(source), file, keep_previous=file.name == LAST)
            if is_new or not self.background:
                self._writer.wait()

    @contextmanager
    def _kept_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self.keeps_errors:
                raise
            self._kept = self._kept or error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any | None = "cpu",
        weights_only: bool | None = True,
    ) -> dict[str, Any]:
        """Load tensors and plain values to the CPU; anything else only where ``weights_only`` is False."""
        self.wait()
        if not is_local(path):
            return super().load_checkpoint(path, map_location, weights_only)
        contents: dict[str, Any] = torch.load(
            path, map_location=map_location or "cpu", weights_only=weights_only is not False
        )
        return contents

    def remove_checkpoint(self, path: str | Path) -> None:
        self.wait()  # an older file goes when the newer one is there
        super().remove_checkpoint(path)

    def finish(self) -> None:
        """Return when all is on the disk; an error shows in ``failed`` and at :meth:`wait`."""
        try:
            self._writer.close()
        except Exception as error:
            self._kept = self._kept or error

    def teardown(self) -> None:
        """Finish what is under way; after another error, one of a write is a warning, not to hide that."""
        is_failing = sys.exc_info()[1] is not None
        self.finish()
        try:
            self.wait()
        except Exception as error:
            if not is_failing:
                raise
            rank_zero_warn(str(error))


def is_local(path: str | Path) -> bool:
    """Tell a local path from a remote address."""
    return "://" not in os.fspath(path)
