"""Images that fail while a split is loaded: any process notes them, the main one reports each once."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from ...errors import InputError
from ...system.memory import shared_memory
from ..annotations.findings import FEW, Finding

FAILED, UNENDED = 1, 2
"""Marks of an image that cannot be decoded, and of a JPEG that lacks nothing but its end marker."""


class Faults:
    """Faults of the I images of a split, in memory that worker processes share.

    Args:
        images: I.
        path: Path of an image.
        split: Name of the split.
        max_skipped: Share of the images that may fail, at least one; with 0, the first raises its error.
        failed: List to which failing images are added.
        announce: Called with each report, as one line of text.

    Attributes:
        marks: uint8 (I,), 0 or a mark.
    """

    def __init__(
        self,
        images: int,
        path: Callable[[int], Path],
        split: str = "",
        max_skipped: float = 0.0,
        failed: list[Finding] | None = None,
        announce: Callable[[str], None] | None = None,
    ) -> None:
        self.path = path
        self.split = split
        self.max_skipped = max_skipped
        self.most = min(images - 1, max(1, int(images * max_skipped))) if max_skipped else 0
        self.failed = [] if failed is None else failed
        self.announce = announce or _ignore
        self.marks = shared_memory(images)
        self._since = shared_memory(8 * images).view(torch.int64)  # (I,), begin of reading in ns; 0: not read
        self._reported = np.zeros(images, np.bool_)
        self._unended = 0  # reported ones

    @contextmanager
    def reading(self, i: int) -> Iterator[None]:
        """Note that image i is being read; a process that is killed leaves the note."""
        since = self._since.numpy()  # faster than the tensor
        since[i] = time.monotonic_ns()
        try:
            yield
        finally:
            since[i] = 0

    def slowest(self) -> tuple[Path, float] | None:
        """The image that has been read for the longest time, and the time in s; None if none is read."""
        since = self._since.numpy()
        read = np.flatnonzero(since)
        if not len(read):
            return None
        first = int(read[since[read].argmin()])
        return self.path(first), (time.monotonic_ns() - int(since[first])) / 1e9

    def forget_readings(self) -> None:
        """Forget what processes were reading that are no more."""
        self._since.zero_()

    def add(self, i: int, error: InputError) -> None:
        """Note that image i fails.

        Raises:
            InputError: Its folder is gone, or more images fail than may.
        """
        self.marks[i] = FAILED
        self._refuse_gone_folder(i)
        failed, images = int((self.marks == FAILED).sum()), len(self.marks)
        if failed > self.most:
            if not self.most:
                raise error
            raise InputError(
                f"{self.path(i)}: with it, {failed:,} of the {images:,} {self.split} images cannot be read, "
                f"more than data.max_skipped {self.max_skipped}; repair them and resume with --ckpt_path "
                "last, or set a larger --data.max_skipped"
            )

    def _refuse_gone_folder(self, i: int) -> None:
        folder = self.path(i).parent
        beside = [self.path(j).parent for j in (i - 1, i + 1) if 0 <= j < len(self.marks)]
        if folder not in beside:  # an image with a folder of its own: no more than one is lost
            return
        try:
            with os.scandir(folder) as entries:
                is_gone = next(entries, None) is None
        except OSError:
            is_gone = True
        if is_gone:
            gone = next((above for above in reversed(folder.parents) if not above.exists()), folder)
            raise InputError(
                f"{gone}: the folder of the {self.split} images is gone or empty; mount or restore it, and "
                "resume with --ckpt_path last"
            )

    def report(self, explain: Callable[[int], str]) -> None:
        """Report what is new; ``explain`` gives the error of an image again.

        Raises:
            InputError: The folder of an image is gone.
        """
        for i in np.flatnonzero((self.marks.numpy() != 0) & ~self._reported).tolist():
            self._reported[i] = True
            if self.marks[i] == UNENDED:
                self._unended += 1
                if self._unended <= FEW:  # some cameras leave the marker out of every picture
                    more = "; further ones are not named" if self._unended == FEW else ""
                    what = "the JPEG has all pixels, but no end marker"
                    self.announce(f"{self.path(i)}: {what}; save it again{more}")
                continue
            self._refuse_gone_folder(i)
            finding = Finding.from_error("unreadable image", InputError(explain(i)), str(self.path(i)))
            if finding not in self.failed:
                self.failed.append(finding)
                self.announce(f"left out of {self.split}: {finding}")


def stand_ins(i: int, images: int) -> Iterator[int]:
    """Positions of images to take the place of image i, of which the first that can be decoded does.

    They are random, but always the same. The next image would take all the places of a damaged folder.
    """
    draw = random.Random(i)
    while True:
        yield draw.randrange(images)


def _ignore(line: str) -> None:
    pass
