"""Images that fail: what takes their place, and when there are too many."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from tests.data.loading.test_worker_loader import BATCH, SIZE, assert_same, end_workers, write_index
from yolo_lightning.data.annotations.findings import FEW, Finding
from yolo_lightning.data.annotations.index import DatasetIndex
from yolo_lightning.data.batch import Batch
from yolo_lightning.data.images.cache import open_cache
from yolo_lightning.data.images.decode import read_rgb
from yolo_lightning.data.images.faults import UNENDED, Faults, stand_ins
from yolo_lightning.data.loading.dataset import DetectionDataset, collate
from yolo_lightning.data.loading.evaluation_loader import EvaluationLoader
from yolo_lightning.data.loading.ordered import DeviceLoader, OrderedLoader
from yolo_lightning.data.loading.sampler import EvalSampler, SameShapeBatchSampler, TrainSampler
from yolo_lightning.data.loading.worker_loader import WorkerLoader
from yolo_lightning.errors import InputError

BROKEN = (3, 4, 10)
"""Positions of the images that cannot be decoded; the last of the eleven is among them."""
IN_PLACE = [0, 1, 2, 9, 1, 5, 6, 7, 8, 9, 9]
"""For each position, that of the image that takes its place."""


@pytest.fixture
def index(tmp_path: Path) -> DatasetIndex:
    return write_index(tmp_path)


def _break(index: DatasetIndex) -> None:
    for i, content in zip(BROKEN, (b"", b"broken", None), strict=True):
        if content is None:
            index.path(i).unlink()
        else:
            index.path(i).write_bytes(content)


class Said:
    """A data set whose faults are written down."""

    def __init__(
        self, index: DatasetIndex, cache: str = "none", max_skipped: float = 0.3, train: bool = True
    ):
        self.lines: list[str] = []
        self.failed: list[Finding] = []
        file = open_cache(index, SIZE, train, "disk", max_skipped=max_skipped) if cache != "none" else None
        faults = Faults(len(index), index.path, "train", max_skipped, self.failed, self.lines.append)
        self.dataset = DetectionDataset(index, SIZE, 16, train, file, faults=faults)


def _loader(said: Said, kind: Literal[0, 1, 2, "device"]) -> OrderedLoader:
    sampler, device = TrainSampler(said.dataset, BATCH, seed=5), torch.device("cpu")
    if kind == "device":
        return DeviceLoader(said.dataset, sampler, device)
    return WorkerLoader(said.dataset, sampler, kind, device)


@pytest.fixture
def references(tmp_path_factory: pytest.TempPathFactory) -> list[Batch]:
    """Two epochs in which another image stands where one is broken, made one image at a time."""
    dataset = DetectionDataset(write_index(tmp_path_factory.mktemp("whole")), SIZE, 16, True)
    sampler = TrainSampler(dataset, BATCH, seed=5)
    orders = [sampler.order(epoch) for epoch in range(2)]
    rows = [order[begin : begin + BATCH] for order in orders for begin in range(0, len(order), BATCH)]
    return [collate([dataset[IN_PLACE[i]] for i in row]) for row in rows]


@pytest.mark.parametrize(
    ("cache", "kind"), [("none", 0), ("none", 1), ("none", 2), ("disk", 0), ("disk", 1), ("disk", "device")]
)
def test_the_same_image_takes_the_place_whoever_loads(
    index: DatasetIndex, references: list[Batch], cache: str, kind: Literal[0, 1, 2, "device"]
) -> None:
    if cache == "none":  # a file that is missing before the cache is made is found in another way
        _break(index)
    else:
        for i in BROKEN:
            index.path(i).write_bytes(b"broken")
    said = Said(index, cache)
    loader = _loader(said, kind)
    found = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        found += [batch.map(torch.clone) for batch in loader]
    for batch, reference in zip(found, references, strict=True):
        assert_same(batch, reference)
    # A resumed run makes the images again that mosaics may need.
    loader.sampler.resume(0, 2 * BATCH)
    loader.sampler.set_epoch(0)
    for batch, reference in zip(loader.earlier(2), references, strict=False):
        assert_same(batch, reference)
    assert sorted(finding.image for finding in said.failed) == sorted(str(index.path(i)) for i in BROKEN)
    assert len(said.lines) == 3 and all(line.startswith("left out of train: ") for line in said.lines)
    if isinstance(loader, WorkerLoader):
        end_workers(loader)
    del loader
    gc.collect()


def test_many_images_take_the_places_of_a_damaged_folder() -> None:
    damaged = range(300, 400)
    tries = {i: [0] for i in damaged}
    for i in damaged:
        for place in stand_ins(i, 1000):
            tries[i].append(place)
            if place not in damaged:
                break
    assert len({places[-1] for places in tries.values()}) > 80
    assert sum(map(len, tries.values())) < 250  # each try of a damaged file is a decoding


@pytest.mark.parametrize("cache", ["none", "disk"])
def test_more_than_a_share_of_the_images_end_the_run(index: DatasetIndex, cache: str) -> None:
    for i in BROKEN:
        index.path(i).write_bytes(b"broken")
    sentence = r"with it, \d of the 11 train images cannot be read, more than data\.max_skipped 0\.2; repair"
    with pytest.raises(InputError, match=sentence):
        said = Said(index, cache, 0.2)
        list(_loader(said, 0))


def test_a_smaller_share_than_that_of_the_cache_is_noticed(index: DatasetIndex) -> None:
    for i in BROKEN:
        index.path(i).write_bytes(b"broken")
    Said(index, "disk", 0.3)
    with pytest.raises(InputError, match=r"more than data\.max_skipped 0\.2"):
        Said(index, "disk", 0.2)


@pytest.mark.parametrize(("images", "share", "most"), [(11, 0.1, 1), (3, 0.1, 1), (30, 0.1, 3), (1, 0.5, 0)])
def test_one_image_may_always_fail_unless_it_is_all(images: int, share: float, most: int) -> None:
    assert Faults(images, lambda i: Path(str(i)), max_skipped=share).most == most
    assert Faults(images, lambda i: Path(str(i))).most == 0


@pytest.mark.parametrize("how", ["gone", "empty"])
def test_a_folder_that_is_gone_is_told_from_single_files(index: DatasetIndex, how: str) -> None:
    said = Said(index)
    folder = index.path(0).parent
    for file in folder.iterdir():
        file.unlink()
    if how == "gone":
        folder.rmdir()
    with pytest.raises(
        InputError, match=f"^{folder}: the folder of the train images is gone or empty; mount"
    ):
        list(_loader(said, 0))
    assert not said.lines


def test_an_image_that_had_a_folder_of_its_own_is_one_image(tmp_path: Path) -> None:
    for name in ("0", "2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "image.jpg").touch()
    said: list[str] = []
    faults = Faults(3, lambda i: tmp_path / str(i) / "image.jpg", "train", 0.3, announce=said.append)
    faults.add(1, InputError("gone"))
    faults.report(lambda i: f"{faults.path(i)}: the image cannot be read; check the path")
    assert said == [f"left out of train: {faults.path(1)}: the image cannot be read; check the path"]


@pytest.mark.parametrize("cache", ["none", "disk"])
def test_a_jpeg_without_an_end_marker_is_used_and_named_once(index: DatasetIndex, cache: str) -> None:
    expected = DetectionDataset(index, SIZE, 16, True)[1].image
    index.path(1).write_bytes(index.path(1).read_bytes()[:-2])
    said = Said(index, cache)
    loader = _loader(said, 0)
    batches = [*loader, *loader]
    images = {int(i): image for batch in batches for i, image in zip(batch.index, batch.images, strict=True)}
    np.testing.assert_array_equal(images[1].permute(1, 2, 0), expected)
    assert said.lines == [f"{index.path(1)}: the JPEG has all pixels, but no end marker; save it again"]
    assert not said.failed


def test_a_camera_that_ends_no_jpeg_does_not_fill_the_screen() -> None:
    said: list[str] = []
    faults = Faults(100, lambda i: Path(f"{i}.jpg"), announce=said.append)
    for images in (slice(30), slice(100)):
        faults.marks[images] = UNENDED
        faults.report(str)
    assert len(said) == FEW and said[-1].endswith("save it again; further ones are not named")


def test_a_file_that_can_be_read_again_is_explained(index: DatasetIndex) -> None:
    said = Said(index)
    content = index.path(2).read_bytes()
    index.path(2).write_bytes(content[:-60])
    assert said.dataset[2].position == next(stand_ins(2, len(index)))
    index.path(2).write_bytes(content)
    said.dataset.report()
    assert "could not be read for a while; look at the disk or network" in said.lines[0]


def _evaluation_loader(dataset: DetectionDataset, workers: int) -> EvaluationLoader:
    return EvaluationLoader(
        dataset,
        batch_sampler=SameShapeBatchSampler(EvalSampler(dataset), 2),
        num_workers=workers,
        collate_fn=collate,
        multiprocessing_context="fork" if workers else None,
        persistent_workers=workers > 0,
        timeout=5 if workers else 0,
    )


@pytest.fixture(params=[0, 1])
def workers(request: pytest.FixtureRequest) -> Iterator[int]:
    yield request.param
    gc.collect()


@pytest.mark.parametrize("cache", ["none", "disk"])
def test_evaluation_leaves_them_out(index: DatasetIndex, workers: int, cache: str) -> None:
    whole = DetectionDataset(index, SIZE, 16, False)
    expected = {i: whole[i] for i in range(len(index)) if i not in BROKEN}
    for i in BROKEN:
        index.path(i).write_bytes(b"broken")
    said = Said(index, cache, train=False)
    loader = _evaluation_loader(said.dataset, workers)
    for _ in range(2):
        found = {}
        for batch in loader:
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
            for row, i in enumerate(batch.index.tolist()):
                found[i] = batch.images[row].permute(1, 2, 0).numpy()
                assert batch.truth_count[row] == expected[i].truth_count
        assert found.keys() == expected.keys()
        for i, image in found.items():
            np.testing.assert_array_equal(image, expected[i].image)
    assert len(said.lines) == 3
    loader.end()


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_workers_that_are_lost_between_two_evaluations_are_replaced(
    index: DatasetIndex, number: signal.Signals
) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's, of a plain DataLoader in another test, raises
    said = Said(index, train=False)
    loader = _evaluation_loader(said.dataset, 1)
    loader.timeout = 1
    expected = [batch.index.tolist() for batch in loader]
    (worker,) = loader._iterator._workers  # type: ignore[union-attr]
    os.kill(worker.pid, number)
    assert [batch.index.tolist() for batch in loader] == expected
    assert said.lines == ["loader workers have ended or do not answer; new ones take their place"]
    worker.join(60)
    assert worker.exitcode == -signal.SIGKILL
    loader.end()


def test_what_is_read_for_the_longest_time_is_known(index: DatasetIndex) -> None:
    faults = Faults(len(index), index.path)
    assert faults.slowest() is None
    with faults.reading(7), faults.reading(2):
        path, seconds = faults.slowest() or (Path(), -1.0)
        assert path == index.path(7) and 0 <= seconds < 60
    assert faults.slowest() is None
    with pytest.raises(InputError), faults.reading(1):
        read_rgb(index.root / "none.jpg")
    assert faults.slowest() is None
