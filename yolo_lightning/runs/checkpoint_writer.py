"""A thread that writes checkpoints while training continues."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .checkpoint_files import write, write_again
from .snapshot import Snapshot, Snapshots

_MOST_SNAPSHOTS = 2
"""Most checkpoints in memory at a time: one being written and the next."""


class BackgroundWriter:
    """Writes checkpoints one after the other on a thread of its own, from snapshots.

    It belongs to one thread of its owner. Memory of a snapshot that was written is kept for the next one,
    until :meth:`close`. A process that ends waits for what is under way; a forked process, such as a loader
    worker, starts without.

    Attributes:
        saves: checkpoints that were handed over.
        stall_seconds: how long callers were held for them, all together.
    """

    def __init__(self) -> None:
        self.saves = 0
        self.stall_seconds = 0.0
        self._pending: deque[Future[None]] = deque()
        self._newest: dict[Path, Future[None]] = {}
        self._executor: ThreadPoolExecutor | None = None
        self._snapshots = Snapshots()
        self._process = os.getpid()

    @property
    def failed(self) -> bool:
        """True if the next :meth:`submit` or :meth:`wait` raises; does not wait."""
        return any(future.done() and future.exception() for future in self._pending)

    def submit(self, contents: object, path: str | Path, keep_previous: bool = False) -> None:
        """Take a snapshot and see to it that it is written; returns before it is on the disk.

        Holds the caller for the snapshot, and for as long as there are two that are not yet written.

        Raises:
            NoSpace, OSError: of an earlier write; this one has not been begun.
        """
        with self._held():
            self._settle(_MOST_SNAPSHOTS - 1)
            self._newest[Path(path)] = self._run(
                self._write, self._snapshots.take(contents), Path(path), keep_previous
            )

    def submit_again(self, source: Path, path: Path, keep_previous: bool = False) -> None:
        """See to it that what was submitted for ``source`` gets another name; it is not written twice.

        Raises:
            NoSpace, OSError: of an earlier write; this one has not been begun.
        """
        written = self._newest[source]

        def name() -> None:
            written.result()  # raises what went wrong: the file there is then an older one
            write_again(source, path, keep_previous)

        with self._held():
            self._settle(_MOST_SNAPSHOTS)
            self._run(name)

    def _write(self, snapshot: Snapshot, path: Path, keep_previous: bool) -> None:
        try:
            write(snapshot.contents, path, keep_previous)
        finally:
            self._snapshots.give_back(snapshot)

    def _run(self, work: Callable[..., None], *arguments: Any) -> Future[None]:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        future = self._executor.submit(work, *arguments)
        self._pending.append(future)
        self.saves += 1
        return future

    def wait(self) -> None:
        """Return when everything that was submitted is on the disk.

        Raises:
            NoSpace, OSError: of a write since the last call; the others have been tried all the same.
        """
        with self._held():
            self._settle(0)

    def close(self) -> None:
        """:meth:`wait`, end the thread and let go of memory; another :meth:`submit` begins anew."""
        try:
            self.wait()
        finally:
            self._snapshots = Snapshots()
            if self._executor is not None:
                self._executor.shutdown()
                self._executor = None

    def _settle(self, most: int) -> None:
        """Wait until at most that many writes are pending, and raise what one of them raised."""
        while self._pending and (len(self._pending) > most or self._pending[0].done()):
            error = self._pending[0].exception()
            self._pending.popleft()
            if error is not None:
                # Those behind it are brought to an end too: their errors would be the same once more.
                while self._pending:
                    self._pending[0].exception()
                    self._pending.popleft()
                raise error

    @contextmanager
    def _held(self) -> Iterator[None]:
        if self._process != os.getpid():  # forked: the thread stayed with the parent
            self._pending, self._executor, self._process = deque(), None, os.getpid()
            self._newest, self._snapshots = {}, Snapshots()
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.stall_seconds += time.perf_counter() - begin
