"""The workers of the training loader: who they are, how they end, and what they tell."""

from __future__ import annotations

import gc
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.data.loading.test_worker_loader import (
    BATCH,
    BATCHES,
    SIZE,
    MakeLoader,
    assert_same,
    expected,
    held_slots,
    loaders,
    wait_until,
    write_index,
)
from yolo_lightning.data.annotations.index import DatasetIndex
from yolo_lightning.data.loading import dataset as dataset_room
from yolo_lightning.data.loading import worker_loader as loader_room
from yolo_lightning.data.loading.dataset import DetectionDataset, Sample
from yolo_lightning.data.loading.sampler import TrainSampler
from yolo_lightning.data.loading.worker_loader import PREFETCH_BATCHES, WorkerLoader
from yolo_lightning.errors import InputError


@pytest.fixture
def index(tmp_path: Path) -> DatasetIndex:
    return write_index(tmp_path)


@pytest.fixture
def make(index: DatasetIndex) -> Iterator[MakeLoader]:
    with loaders(index) as make_loader:
        yield make_loader


class Signed(DetectionDataset):
    """Tells in each sample which process made it, and with how many threads."""

    def timed_sample(self, i: int, image: np.ndarray) -> tuple[Sample, int]:
        threads = (cv2.getNumThreads(), torch.get_num_threads())
        sample, read_ns = super().timed_sample(i, image)
        return sample._replace(image_id=os.getpid(), original_size=threads), read_ns


def test_workers_stay_from_epoch_to_epoch_and_have_one_thread(make: MakeLoader) -> None:
    loader = make(2, kind=Signed)
    processes = []
    for epoch in (0, 1, 2, 2, 7):  # going on, again, and elsewhere
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
        processes.append({int(i) for batch in batches for i in batch.image_ids})
        assert all(batch.original_sizes.tolist() == [[1, 1]] * BATCH for batch in batches)
    everyone = set().union(*processes)
    assert len(everyone) == 2 and os.getpid() not in everyone
    (alone,) = {int(i) for batch in make(0, kind=Signed) for i in batch.image_ids}
    assert alone == os.getpid()


class Counted(DetectionDataset):
    """Leaves a byte in a file for each sample that any process makes."""

    def timed_sample(self, i: int, image: np.ndarray) -> tuple[Sample, int]:
        with (self.index.root / "made").open("ab") as file:
            file.write(b".")
        return super().timed_sample(i, image)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_made_ahead_is_used(index: DatasetIndex, make: MakeLoader, workers: int) -> None:
    loader = make(workers, kind=Counted)
    epochs = 5
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        assert len(list(loader)) == BATCHES
    made = index.root / "made"
    expected_images = BATCH * (epochs * BATCHES + workers * PREFETCH_BATCHES)
    wait_until(lambda: made.stat().st_size >= expected_images)
    assert made.stat().st_size == expected_images


def test_a_signal_to_all_processes_of_a_job_leaves_the_workers_alone(
    index: DatasetIndex, make: MakeLoader
) -> None:
    loader = make(2, kind=Signed)
    batches = iter(loader)
    workers = {next(batches).image_ids[0].item() for _ in range(2)}
    for worker in workers:
        assert os.getpgid(int(worker)) != os.getpgid(0)  # out of reach of Ctrl-C
        subprocess.run(["sh", "-c", f"kill -TERM {worker}"], check=True)  # by somebody else
    assert {batch.image_ids[0].item() for batch in batches} <= workers
    loader.sampler.set_epoch(1)
    assert {batch.image_ids[0].item() for batch in loader} <= workers  # none has ended


def test_workers_end_with_their_loader(index: DatasetIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    # How long torch waits for a worker before it kills it: as long as one may take on a busy machine.
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 100.0)
    dataset = DetectionDataset(index, SIZE, 16, True)
    loader = WorkerLoader(dataset, TrainSampler(dataset, BATCH), 2, torch.device("cpu"))
    assert len(list(loader)) == BATCHES
    assert loader._loader is not None
    workers = list(loader._loader._iterator._workers)  # type: ignore[union-attr]
    killed: list[int] = []
    for worker in workers:
        monkeypatch.setattr(
            worker, "terminate", lambda worker=worker: killed.append(worker.pid) or worker.kill()
        )
    assert all(worker.is_alive() for worker in workers)
    del loader
    gc.collect()
    assert not any(worker.is_alive() for worker in workers)
    assert not killed  # they were told to end, and did


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_unreadable_image_keeps_its_sentence(index: DatasetIndex, make: MakeLoader, workers: int) -> None:
    index.path(6).write_text("broken")
    with pytest.raises(InputError) as error:
        list(make(workers))
    last = str(error.value).strip().splitlines()[-1]
    assert last.endswith(f"{index.path(6)}: not a readable image; replace or remove it")


def test_after_an_error_the_epoch_starts_over(index: DatasetIndex, make: MakeLoader) -> None:
    loader = make(0)
    sampler = loader.sampler
    reference = expected(index, 1)
    for broken in range(BATCHES):  # a batch of the second epoch
        sampler.set_epoch(0)
        assert len(list(loader)) == BATCHES
        path = index.path(sampler.order(1)[broken * BATCH])
        content = path.read_bytes()
        path.write_text("broken")
        sampler.set_epoch(1)
        with pytest.raises(InputError):
            list(loader)
        path.write_bytes(content)
        for found, batch in zip(loader, reference, strict=True):
            assert_same(found, batch)
        del found
        assert held_slots(loader) == 0


def test_read_fraction_is_the_part_of_reading(
    index: DatasetIndex, make: MakeLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0

    def after(nanoseconds: int, work: Callable[..., Any]) -> Callable[..., Any]:
        def working(*arguments: Any) -> Any:
            nonlocal now
            now += nanoseconds
            return work(*arguments)

        return working

    for room in (loader_room, dataset_room):
        monkeypatch.setattr(room, "perf_counter_ns", lambda: now)
    monkeypatch.setattr(dataset_room, "read_bytes", after(4, dataset_room.read_bytes))
    monkeypatch.setattr(dataset_room, "draw", after(12, dataset_room.draw))
    monkeypatch.setattr(loader_room, "usable_cores", lambda: 1)
    loader = make(0)
    assert np.isnan(loader.read_fraction)
    list(loader)
    assert loader.read_fraction == 0.25


def test_read_fraction_is_a_fraction_with_threads_too(
    index: DatasetIndex, make: MakeLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_bytes = dataset_room.read_bytes

    def slowly(path: Path) -> bytes:
        time.sleep(0.01)  # four threads read at once
        return read_bytes(path)

    monkeypatch.setattr(dataset_room, "read_bytes", slowly)
    monkeypatch.setattr(loader_room, "usable_cores", lambda: 4)
    loader = make(0)
    list(loader)
    assert 0 < loader.read_fraction <= 1


def test_workers_tell_what_they_read(index: DatasetIndex, make: MakeLoader) -> None:
    plain, cached = make(1), make(1, "disk")
    for loader in (plain, cached):
        list(loader)
    assert 0 < plain.read_fraction < 1
    assert cached.read_fraction == 0
