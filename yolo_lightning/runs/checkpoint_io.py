"""Lightning's CheckpointIO: whole files, written beside the training, with the previous one kept."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from .checkpoint_files import write, write_again
from .directory import LAST
from .snapshot import Snapshots

_MOST_SNAPSHOTS = 2  # most checkpoints in memory at a time: one being written and the next


class RunCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints one after the other on a thread of its own, from snapshots.

    When a save returns, the file is there: a new name is waited for, and a name that exists is the old
    whole file until the new one takes its place. An error of a write shows at the next save, at
    :meth:`wait`, or when the run ends. Lightning saves and removes on rank zero alone.

    The memory of a snapshot that was written is kept for the next one. A process that ends waits for what is
    under way; a forked process, such as a loader worker, starts without.

    Args:
        background: go on training while a checkpoint is written; without, each save is waited for, which
            a logger needs that sends every file away as soon as it was saved.

    Attributes:
        saves: checkpoints handed over to be written.
        stall_seconds: time that training was held for all saves, in s.
        saved: position and path of the last save of an ``EpochCheckpoint``; the same on every rank.
        keeps_errors: no save raises, because the other ranks would wait in it; :meth:`wait` does.
    """

    def __init__(self, background: bool = True) -> None:
        self.background = background
        self.saves = 0
        self.stall_seconds = 0.0
        self.saved: tuple[Any, str] | None = None
        self.keeps_errors = False
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._executor: ThreadPoolExecutor | None = None
        self._pending: deque[Future[bool]] = deque()
        self._newest: dict[Path, Future[bool]] = {}
        """The last write of each path; the result is whether it succeeded."""
        self._snapshots = Snapshots()
        self._error: Exception | None = None  # the first error of a write that was not raised yet

    @property
    def failed(self) -> bool:
        """True if a write has failed and the error was not raised yet; does not wait."""
        return self._error is not None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        if storage_options is not None or not is_local(path):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            self._save(self.submit, checkpoint, Path(path))

    def save_again(self, source: str | Path, path: str | Path) -> None:
        """Give what was saved as ``source`` another name, too; that costs next to nothing."""
        self._save(self.submit_again, Path(source), Path(path))

    def _save(self, submit: Callable[[Any, Path, bool], None], contents: Any, file: Path) -> None:
        is_new = not file.is_file()
        try:
            submit(contents, file, file.name == LAST)
            if is_new or not self.background:
                self.wait()
        except Exception as error:
            if not self.keeps_errors:
                raise
            self._error = self._error or error

    def submit(self, contents: Any, path: Path, keep_previous: bool = False) -> None:
        """Take a snapshot, to be written soon. Holds the caller while two are not yet written.

        Raises:
            NoSpace, OSError: of an earlier write; this one has not been begun.
        """
        with self._held(_MOST_SNAPSHOTS - 1, raises=not self.keeps_errors):
            snapshot = self._snapshots.take(contents)

            def write_snapshot() -> None:
                try:
                    write(snapshot.contents, path, keep_previous)
                finally:
                    self._snapshots.give_back(snapshot)

            self._newest[path] = self._run(write_snapshot)

    def submit_again(self, source: Path, path: Path, keep_previous: bool = False) -> None:
        """Give the checkpoint that was submitted as ``source`` a second name, so that it is written once."""
        written = self._newest[source]

        def name() -> None:
            if written.result():  # otherwise the file there is an older one
                write_again(source, path, keep_previous)

        with self._held(_MOST_SNAPSHOTS, raises=not self.keeps_errors):
            self._run(name)

    def _run(self, work: Callable[[], None]) -> Future[bool]:
        def run() -> bool:
            try:
                work()
            except Exception as error:
                self._error = self._error or error
                return False
            return True

        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        future = self._executor.submit(run)
        self._pending.append(future)
        self.saves += 1
        return future

    def wait(self) -> None:
        """Return when every checkpoint saved so far is on the disk.

        Raises:
            NoSpace: there was no room for one; the others have been tried all the same.
            OSError: one could not be written for another reason.
        """
        with self._held(0, raises=True):
            pass

    @contextmanager
    def _held(self, most: int, raises: bool) -> Iterator[None]:
        """Wait until at most that many writes are pending, and count the time until the block has ended."""
        if self._process != os.getpid():  # forked: the thread stayed with the parent
            self._begin()
        begin = time.perf_counter()
        try:
            self._settle(most)
            if raises and self._error is not None:
                self._settle(0)  # the errors of those behind it would be the same once more
                error, self._error = self._error, None
                raise error
            yield
        finally:
            self.stall_seconds += time.perf_counter() - begin

    def _settle(self, most: int) -> None:
        while len(self._pending) > most:
            self._pending.popleft().result()

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Load tensors and plain values to the CPU; anything else only where ``weights_only`` is False."""
        self.wait()
        place: Any = map_location or "cpu"
        return super().load_checkpoint(path, place, weights_only is not False)

    def remove_checkpoint(self, path: str | Path) -> None:
        self.wait()  # an older file goes when the newer one is there
        super().remove_checkpoint(path)

    def finish(self) -> None:
        """Return when all is on the disk, without thread and memory; an error shows in ``failed``."""
        with self._held(0, raises=False):
            self._snapshots = Snapshots()
            if self._executor is not None:
                self._executor.shutdown()
                self._executor = None

    def teardown(self) -> None:
        """Finish what is under way; after another error, one of a write is a warning, not to hide that."""
        self.finish()
        if self._error is not None and sys.exc_info()[1] is not None:
            rank_zero_warn(str(self._error))
            self._error = None
        self.wait()


def is_local(path: str | Path) -> bool:
    """Tell a local path from a remote address."""
    return "://" not in os.fspath(path)
