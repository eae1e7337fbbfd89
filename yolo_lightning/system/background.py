"""Background threads: for pictures, plots and files, and for what is read ahead of its use."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from .text import one_line

Item = TypeVar("Item")

_WARNING = "a picture or file could not be made"


class BackgroundQueue:
    """Runs what is submitted, in order, on one thread; what does not fit is dropped, so nobody is held.

    Tasks leave torch's operators alone: OpenMP would keep a pool of threads for this thread, too, and with
    more threads than cores those of the training step no longer wait awake for each other (10 % of a step
    on two cores).

    Args:
        most: tasks that may wait; the first one starts the thread.

    Attributes:
        dropped: tasks that found the queue full.
        failed: tasks that raised. A warning reports the first one; the others continue.
    """

    def __init__(self, most: int = 16) -> None:
        self.dropped = 0
        self.failed = 0
        self._tasks: queue.Queue[Callable[[], Any]] = queue.Queue(most)
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    def submit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
        """Have ``function`` called soon, with data that nobody changes any more; False when it is dropped."""
        self._notice_fork()
        try:
            self._tasks.put_nowait(lambda: function(*args, **kwargs))
        except queue.Full:
            self.dropped += 1
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="background", daemon=True)
            self._thread.start()
        return True

    def drain(self) -> None:
        """Return when everything that was submitted has run."""
        self._notice_fork()
        self._tasks.join()

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            try:
                task()
            except Exception as error:  # training is worth more than a picture
                self.failed += 1
                if self.failed == 1:
                    text = one_line(f"{type(error).__name__}: {error}", 300)
                    with contextlib.suppress(Exception):  # warnings may be errors
                        warnings.warn(f"{_WARNING}: {text}; training continues", stacklevel=1)
            finally:
                self._tasks.task_done()

    def _notice_fork(self) -> None:
        """Begin anew in a forked process, such as a loader worker: the thread stayed with the parent."""
        if self._process != os.getpid():
            self._tasks, self._thread, self._process = queue.Queue(self._tasks.maxsize), None, os.getpid()


class Pace:
    """Keeps work that is done again and again to a share of one core.

    On a GPU drawing costs nothing; on a CPU it takes a core from the training, which short epochs feel.

    Args:
        share: of the time that passes from now on, above 0.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._spent_s = 0.0
        self._began_s = time.monotonic()

    def is_due(self) -> bool:
        """True if the time spent so far is within the share; at first it is."""
        return self._spent_s <= self._share * (time.monotonic() - self._began_s)

    def run(self, function: Callable[..., Any], *args: Any) -> None:
        """Call ``function``, and count the time that this thread computes."""
        begin = time.thread_time()
        try:
            function(*args)
        finally:
            self._spent_s += time.thread_time() - begin


def made_ahead(items: Iterable[Item], most: int = 2, newest: bool = False) -> Generator[Item, None, None]:
    """Yield items that a thread makes ahead of their use; an error of the thread is raised here.

    Args:
        items: what is made; the thread ends after the item at hand when this iterator is closed.
        most: items that may wait.
        newest: drop the oldest item that waits for a new one, instead of making the thread wait.
    """
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(most)
    closed = threading.Event()
    end = object()

    def put(item: Any, error: BaseException | None = None) -> None:
        drops = newest and item is not end
        while not closed.is_set():
            try:
                return waiting.put((item, error), timeout=0 if drops else 0.1)
            except queue.Full:
                if drops:
                    with contextlib.suppress(queue.Empty):
                        waiting.get_nowait()

    def work() -> None:
        try:
            for item in items:
                put(item)
                if closed.is_set():
                    return
            put(end)
        except BaseException as error:
            put(end, error)

    threading.Thread(target=work, name="ahead", daemon=True).start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        closed.set()
