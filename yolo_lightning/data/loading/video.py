"""Frames of videos, cameras and network streams, read and letterboxed by a thread beside inference."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
import torch

from ...errors import InputError
from ...system.background import made_ahead
from ..batch import Batch
from ..image_size import Size
from ..images.decode import Pixels
from .dataset import collate, prediction_sample
from .sampler import world
from .sources import is_live

_POSITION_BITS = 40
"""Bits of the number of a frame in its position; the stream, from 1, is in the bits above."""


class Frame(NamedTuple):
    """One frame of a stream."""

    stream: int  # position of its stream among the streams
    number: int  # from 0, in the stream
    pixels: Pixels  # uint8 RGB (H, W, 3)
    per_second: float  # frames of the stream in a second, as the file or the camera says


class Letterboxing(NamedTuple):
    """How images become batches."""

    image_size: Size | None  # height and width in px that images are scaled into; None: as large as they are
    stride: int  # stride of the rectangles, in px
    canvas: Size | None = None  # height and width of every image in px; None: any rectangle


def read_frames(source: str, stream: int = 0, every: int = 1) -> Generator[Frame, None, None]:
    """Decode a video, camera or network stream.

    Args:
        source: Path, address, or number of a camera.
        stream: Position of the stream among the streams.
        every: Frames from one that is yielded to the next; 5 yields the frames 4, 9, 14 and so on.

    Raises:
        InputError: It cannot be opened.
    """
    capture = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    try:
        if not capture.isOpened():
            raise InputError(f"{source}: cannot be opened as a video or stream; check it in a video player")
        per_second = capture.get(cv2.CAP_PROP_FPS)
        if not 0 < per_second <= 1000:
            per_second = 30.0  # some cameras and streams say nothing, or nonsense
        number = 0
        while capture.grab():
            if number % every == every - 1:  # the last of each group, as in yolov5 and ultralytics
                is_whole, picture = capture.retrieve()
                if is_whole:  # a damaged frame is passed over, as in a player
                    pixels = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
                    yield Frame(stream, number, pixels, per_second)
            number += 1
        if number == 0:
            raise InputError(f"{source}: has no frame that can be decoded; check it in a video player")
    finally:
        capture.release()


def letterboxed(images: Sequence[Pixels], how: Letterboxing, positions: Sequence[int]) -> Batch:
    """A batch of images uint8 RGB (H, W, 3) of one size; ``positions`` are their numbers."""
    return collate(
        [
            prediction_sample(pixels, how.image_size, how.stride, position, canvas=how.canvas)
            for pixels, position in zip(images, positions, strict=True)
        ]
    )


def stream_batches(
    streams: Sequence[tuple[int, str]],
    how: Letterboxing,
    batch_size: int,
    every: int = 1,
    failed: dict[int, str] | None = None,
) -> Generator[tuple[list[Frame], Batch], None, None]:
    """Frames with their batches, made ahead: videos one after another, then live streams in turn.

    Of a live stream, which does not wait, the newest frame is taken, and a batch has one frame.

    Args:
        streams: Positions of the streams, and the streams.
        how: How frames become batches.
        batch_size: Frames of a batch of a video.
        every: Frames from one that is yielded to the next.
        failed: Takes a sentence about each stream that cannot be opened, by the position of its first frame.

    Raises:
        InputError: A stream cannot be opened, and ``failed`` is None.
    """

    def batches(stream: int, source: str, size: int) -> Iterator[tuple[list[Frame], Batch]]:
        try:
            with closing(read_frames(source, stream, every)) as frames:
                while group := list(islice(frames, size)):
                    yield group, letterboxed([f.pixels for f in group], how, [f.number for f in group])
        except InputError as error:
            if failed is None:
                raise
            failed[_position(stream, 0)] = str(error)

    for stream, source in streams:
        if not is_live(source):
            with closing(made_ahead(batches(stream, source, batch_size))) as ahead:
                yield from ahead
    with ExitStack() as open_streams:
        live = [made_ahead(batches(k, s, 1), 1, newest=True) for k, s in streams if is_live(s)]
        for one in live:
            open_streams.callback(one.close)
        while live:
            for one in list(live):
                if (item := next(one, None)) is None:
                    live.remove(one)
                else:
                    yield item


@dataclass(eq=False)
class PredictionLoader:
    """Batches of images, then of the frames of streams; each process reads its share of the streams."""

    images: Iterable[Batch]  # the batches of images
    streams: Sequence[str]  # all streams
    how: Letterboxing
    batch_size: int  # frames of a batch of a video
    every: int  # frames from one that is predicted to the next
    under_way: dict[int, Frame] = field(default_factory=dict)
    """Frames whose batches were yielded, by their position in ``Batch.index``; whoever has finished with a
    frame removes it."""
    unreadable: dict[int, str] = field(default_factory=dict)
    """Sentences about videos and streams that were left out, by the position of a first frame."""

    def __iter__(self) -> Iterator[Batch]:
        yield from self.images
        processes, rank = world()
        own = [*enumerate(self.streams)][rank::processes]
        for frames, batch in stream_batches(own, self.how, self.batch_size, self.every, self.unreadable):
            positions = [_position(frame.stream, frame.number) for frame in frames]
            self.under_way.update(zip(positions, frames, strict=True))
            yield batch._replace(index=torch.tensor(positions))


def _position(stream: int, number: int) -> int:
    return (stream + 1 << _POSITION_BITS) + number


def stream_of(position: int) -> int | None:
    """The stream that a frame belongs to, by its position in ``Batch.index``; None for an image."""
    return (position >> _POSITION_BITS) - 1 if position >> _POSITION_BITS else None


def frame_number(position: int) -> int:
    """The number of a frame in its stream, by its position in ``Batch.index``."""
    return position & (1 << _POSITION_BITS) - 1
