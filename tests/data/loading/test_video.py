from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.support.video import make_video
from yolo_lightning.data.images.decode import Pixels
from yolo_lightning.data.loading import video
from yolo_lightning.data.loading.dataset import PredictionDataset
from yolo_lightning.data.loading.video import (
    Frame,
    Letterboxing,
    PredictionLoader,
    frame_number,
    letterboxed,
    read_frames,
    stream_batches,
    stream_of,
)
from yolo_lightning.errors import InputError

HOW = Letterboxing((64, 64), 32)


def gray(frames: list[Frame]) -> list[float]:
    return [round(float(frame.pixels.mean()) / 20) for frame in frames]


def test_frames_come_in_order_in_rgb(tmp_path: Path) -> None:
    frames = list(read_frames(make_video(tmp_path / "a.mp4", 9)))
    assert [frame.number for frame in frames] == [*range(9)] and gray(frames) == [*range(9)]
    assert frames[0].pixels.shape == (48, 96, 3) and frames[0].per_second == pytest.approx(25)
    assert [f.number for f in read_frames(make_video(tmp_path / "b.mp4", 9), every=4)] == [3, 7]
    writer = cv2.VideoWriter(str(tmp_path / "red.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 64))
    writer.write(np.full((64, 64, 3), (0, 0, 250), np.uint8))  # BGR
    writer.release()
    (red,) = read_frames(str(tmp_path / "red.mp4"))
    assert np.abs(red.pixels.reshape(-1, 3).mean(0) - (250, 0, 0)).max() < 12


def test_what_is_no_video_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match=r"a\.mp4: cannot be opened as a video"):
        list(stream_batches([(0, str(tmp_path / "a.mp4"))], HOW, 2))


def test_a_frame_is_letterboxed_as_an_image_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (50, 71, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), pixels[..., ::-1])
    sample = PredictionDataset([tmp_path / "a.png"], (64, 64))[0]
    batch = letterboxed([pixels], HOW, [0])
    assert torch.equal(batch.images[0], torch.from_numpy(sample.image).permute(2, 0, 1))
    assert batch.letterbox[0].tolist() == sample.letterbox.tolist()
    assert batch.original_sizes.tolist() == [[50, 71]]


def test_videos_follow_each_other_in_batches(tmp_path: Path) -> None:
    streams = [(k, make_video(tmp_path / f"{k}.mp4", n)) for k, n in enumerate((3, 2))]
    batches = list(stream_batches(streams, HOW, 2))
    assert [[(f.stream, f.number) for f in frames] for frames, _ in batches] == [
        [(0, 0), (0, 1)], [(0, 2)], [(1, 0), (1, 1)],
    ]  # fmt: skip
    assert [batch.images.shape for _, batch in batches] == [(2, 3, 32, 64), (1, 3, 32, 64), (2, 3, 32, 64)]


def test_a_long_video_is_not_held_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    alive, most = 0, 0
    lock = threading.Lock()

    class Counted(np.ndarray):  # type: ignore[type-arg]
        def __del__(self) -> None:
            nonlocal alive
            if self.base is None:
                with lock:
                    alive -= 1

    def picture() -> Pixels:
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        return np.ndarray.__new__(Counted, (8, 8, 3), np.uint8)

    def frames(source: str, stream: int, every: int) -> Iterator[Frame]:
        for number in range(10_000):
            yield Frame(stream, number, picture(), 25.0)

    monkeypatch.setattr(video, "read_frames", frames)
    seen = sum(len(group) for group, _ in stream_batches([(0, "a.mp4")], Letterboxing((32, 32), 32), 4))
    assert seen == 10_000
    assert 4 <= most <= 6 * 4  # two batches wait, one is made, one is used


def test_the_newest_frame_of_a_camera_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def frames(source: str, stream: int, every: int) -> Iterator[Frame]:
        for number in range(40):
            time.sleep(0.005)
            yield Frame(stream, number, np.zeros((8, 8, 3), np.uint8), 25.0)

    monkeypatch.setattr(video, "read_frames", frames)
    seen: dict[int, list[int]] = {0: [], 1: []}
    for (frame,), batch in stream_batches([(0, "0"), (1, "rtsp://host")], Letterboxing((32, 32), 32), 4):
        assert len(batch.images) == 1
        seen[frame.stream].append(frame.number)
        time.sleep(0.02)
    for numbers in seen.values():
        assert numbers == sorted(set(numbers)) and 2 <= len(numbers) < 40
    assert min(map(min, seen.values())) < 10 and max(map(max, seen.values())) > 30


def test_reading_ends_when_nobody_wants_more(tmp_path: Path) -> None:
    batches = stream_batches([(0, make_video(tmp_path / "a.mp4", 40))], HOW, 1)
    next(batches)
    batches.close()
    ahead = [thread for thread in threading.enumerate() if thread.name == "ahead"]
    for thread in ahead:
        thread.join(timeout=10)
    assert not any(thread.is_alive() for thread in ahead)


def test_a_frame_is_kept_until_it_is_taken(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    streams = [
        make_video(tmp_path / "0.mp4", 3),
        str(tmp_path / "bad.mp4"),
        make_video(tmp_path / "2.mp4", 3),
    ]
    loader = PredictionLoader([], streams, HOW, 2, 1)
    found = []
    for batch in loader:
        for position in batch.index.tolist():
            frame = loader.under_way.pop(position)
            assert (stream_of(position), frame_number(position)) == (frame.stream, frame.number)
            found.append((frame.stream, frame.number))
    assert found == [(k, n) for k in (0, 2) for n in range(3)] and not loader.under_way
    ((position, sentence),) = loader.unreadable.items()  # a bad video does not end the run
    assert stream_of(position) == 1 and "bad.mp4: cannot be opened" in sentence
    assert stream_of(2**39) is None


def test_a_camera_that_is_off_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(source: str, stream: int, every: int) -> Iterator[Frame]:
        if source == "0":
            raise InputError("0: cannot be opened as a video or stream")
        for k in range(5):
            time.sleep(0.02)
            yield Frame(stream, k, np.zeros((64, 64, 3), np.uint8), 30.0)

    monkeypatch.setattr(video, "read_frames", read)
    loader = PredictionLoader([], ["0", "1"], HOW, 1, 1)
    positions = [position for batch in loader for position in batch.index.tolist()]
    assert len(positions) > 1 and {stream_of(position) for position in positions} == {1}
    ((position, sentence),) = loader.unreadable.items()
    assert stream_of(position) == 0 and sentence.startswith("0: cannot be opened")
