from __future__ import annotations

import time
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from yolo_lightning.data.annotations.coco import read_coco
from yolo_lightning.data.annotations.index import DatasetIndex
from yolo_lightning.data.batch import Batch, label_capacity
from yolo_lightning.data.images.cache import ImageCache
from yolo_lightning.data.loading import dataset as data_set
from yolo_lightning.data.synthetic import make_dataset
from yolo_lightning.performance.doctor import sample as sampling
from yolo_lightning.performance.doctor.bare_step import TrainingStep, build_augmentation
from yolo_lightning.performance.doctor.candidates import Candidate, StepShape
from yolo_lightning.performance.doctor.loading import (
    batches_ahead,
    endless,
    make_loader,
    measure_copy,
    measure_images,
    measure_loader,
)
from yolo_lightning.performance.doctor.sample import ForgetfulDataset, TrainingSample, forget, part_of
from yolo_lightning.performance.doctor.together import Pipeline, compare

CPU = torch.device("cpu")
SIZE = 64


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    root = make_dataset(tmp_path_factory.mktemp("synth"), train_images=12, val_images=2, image_size=128)
    return read_coco(root / "annotations" / "instances_train.json", "train", root=root)


@pytest.fixture
def sample(index: DatasetIndex) -> TrainingSample:
    return TrainingSample(index, SIZE, index.most_labels, 8)


def test_a_part_of_an_index_is_these_images_with_their_labels(index: DatasetIndex) -> None:
    positions = np.array([7, 2, 11])
    part = part_of(index, positions)
    assert len(part) == 3
    for new, old in enumerate(positions.tolist()):
        assert part.path(new) == index.path(old)
        assert part.image_ids[new] == index.image_ids[old]
        np.testing.assert_array_equal(part.sizes[new], index.sizes[old])
        np.testing.assert_array_equal(part.labels(new), index.labels(old))
        np.testing.assert_array_equal(part.truth(new), index.truth(old))
    assert len(part_of(index, positions[:0])) == 0


def test_a_sample_is_always_the_same(index: DatasetIndex) -> None:
    first, second = (TrainingSample(index, SIZE, 5 * index.most_labels, 8) for _ in range(2))
    assert first.index.path_bytes == second.index.path_bytes
    assert first.capacity == label_capacity(5 * index.most_labels)
    assert len(TrainingSample(index, SIZE, index.most_labels, 100).index) == len(index)


def test_the_memory_cache_holds_what_the_files_hold(sample: TrainingSample) -> None:
    with sample.memory_cache() as cache:
        path = cache.path
        for i in range(len(sample.index)):
            np.testing.assert_array_equal(cache[i], sample.dataset[i].image)
        assert isinstance(cache, ImageCache) and path.is_file()
        np.testing.assert_array_equal(sample.cached(cache)[3].image, sample.dataset[3].image)
    assert not path.exists()


def test_files_larger_than_the_memory_are_read_from_the_disk(
    index: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[Path] = []
    monkeypatch.setattr(sampling, "forget", forgotten.append)
    monkeypatch.setattr(sampling, "available_memory", lambda: 1000)
    large = TrainingSample(index, SIZE, index.most_labels, 4)
    assert not large.stays_in_memory and isinstance(large.dataset, ForgetfulDataset)
    loader = make_loader(large.dataset, 2, 0, CPU, resident=False)
    list(loader)
    assert set(forgotten) == {large.index.path(i) for i in range(4)}


def test_forgetting_a_file_leaves_it_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"pixels")
    forget(path)
    assert path.read_bytes() == b"pixels"
    forget(tmp_path / "missing")


def test_a_slow_disk_is_told_from_slow_decoding(
    sample: TrainingSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = data_set.read_bytes
    quick = measure_images(sample, 0.0)
    assert quick.images == 4 and min(quick) > 0

    def slow(path: Path) -> bytes:
        time.sleep(0.05)
        return real(path)

    monkeypatch.setattr(data_set, "read_bytes", slow)
    cost = measure_images(sample, 0.0)
    assert cost.read_ms >= 50 and cost.cold_read_ms >= 50
    rate = measure_loader(make_loader(sample.dataset, 2, 0, CPU, resident=False), 2, CPU, 0.0)
    assert rate.read_fraction > 0.5
    assert rate.images_per_second < 1000 / 50 * 64  # a file at a time in each of at most 64 threads


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_is_timed_for_as_many_epochs_as_it_takes(sample: TrainingSample, workers: int) -> None:
    loader = make_loader(sample.dataset, 4, workers, CPU, resident=False)
    assert batches_ahead(loader) == 2 * workers
    rate = measure_loader(loader, 4, CPU, 0.1)
    assert rate.images_per_second > 0 and 0 < rate.read_fraction < 1
    loader.close()


def test_endless_batches_go_from_epoch_to_epoch(sample: TrainingSample) -> None:
    loader = make_loader(sample.dataset, 4, 0, CPU, resident=False)
    batches = endless(loader)
    taken = [next(batches).index.clone() for _ in range(4)]
    for epoch in (taken[:2], taken[2:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(8))
    assert loader.sampler.epoch == 1


@pytest.mark.parametrize(("workers", "timed"), [(0, 2), (2, 2), (3, 3)])
def test_bursts_of_workers_are_timed_whole(
    sample: TrainingSample, monkeypatch: pytest.MonkeyPatch, workers: int, timed: int
) -> None:
    loader = make_loader(sample.dataset, 4, 0, CPU, resident=False)
    monkeypatch.setattr(loader, "workers", workers)
    trained: list[Batch] = []
    step = MagicMock(device=CPU, side_effect=trained.append)
    pipeline = Pipeline(loader, step)
    pipeline.step_seconds(0.0)
    assert len(trained) == 2  # the loader has no part in it
    trained.clear()
    pipeline.seconds(0.0)
    assert len(trained) == batches_ahead(loader) + max(1, workers) + timed
    pipeline.batches.close()


def test_there_is_nothing_to_copy_on_a_cpu() -> None:
    assert measure_copy(CPU) is None


def test_loader_and_step_are_timed_in_turn(sample: TrainingSample) -> None:
    shape = StepShape("yolov5n", 3, SIZE, 4, sample.capacity)
    pipelines = []
    with sample.memory_cache() as cache:
        for dataset, resident in ((sample.dataset, False), (sample.cached(cache), True)):
            step = TrainingStep(shape, Candidate("32-true", True, False), build_augmentation(shape, False))
            pipelines.append(Pipeline(make_loader(dataset, 4, 0, CPU, resident), step))
        for step_s, both_s in compare(pipelines, 0.1):
            assert step_s > 0 and both_s > 0
        before = pipelines[0].resident.images.clone()
        pipelines[0].seconds(0.0)
        assert torch.equal(pipelines[0].resident.images, before)  # no slot of the loader's
        for pipeline in pipelines:
            pipeline.close()
