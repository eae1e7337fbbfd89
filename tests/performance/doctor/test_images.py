from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from yolo_lightning.data.annotations.coco import CocoReader
from yolo_lightning.data.annotations.index import DatasetIndex
from yolo_lightning.data.batch import label_capacity
from yolo_lightning.data.images.cache import ImageCache
from yolo_lightning.data.loading import dataset as data_set
from yolo_lightning.data.synthetic import make_dataset
from yolo_lightning.performance.doctor import images as sampling
from yolo_lightning.performance.doctor.images import (
    ForgetfulDataset,
    TrainingSample,
    batches_ahead,
    endless,
    forget,
    measure_copy,
    measure_images,
    measure_loader,
    part_of,
)

CPU = torch.device("cpu")
SIZE = (64, 96)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    root = make_dataset(tmp_path_factory.mktemp("synth"), train_images=12, val_images=2, image_size=128)
    return CocoReader(root / "annotations" / "instances_train.json", "train", root=root).read()


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
            np.testing.assert_array_equal(cache.pixels[i], sample.dataset[i].image)
        assert isinstance(cache, ImageCache) and path.is_file()
        [batch] = sample.loader(8, 0, CPU, cache, resident=True)
        for image, i in zip(batch.images, batch.index.tolist(), strict=True):
            np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), sample.dataset[i].image)
    assert not path.exists()


def test_files_larger_than_the_memory_are_read_from_the_disk(
    index: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[Path] = []
    monkeypatch.setattr(sampling, "forget", forgotten.append)
    monkeypatch.setattr(sampling, "available_memory", lambda: 1000)
    large = TrainingSample(index, SIZE, index.most_labels, 4)
    assert not large.stays_in_memory and isinstance(large.dataset, ForgetfulDataset)
    list(large.loader(2, 0, CPU))
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
    rate = measure_loader(sample.loader(2, 0, CPU), 0.0)
    assert rate.read_fraction > 0.5
    assert rate.images_per_second < 1000 / 50 * 64  # a file at a time in each of at most 64 threads


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_is_timed_for_as_many_epochs_as_it_takes(sample: TrainingSample, workers: int) -> None:
    loader = sample.loader(4, workers, CPU)
    assert batches_ahead(loader) == 2 * workers
    rate = measure_loader(loader, 0.1)
    assert rate.images_per_second > 0 and 0 < rate.read_fraction < 1
    loader.close()


def test_endless_batches_go_from_epoch_to_epoch(sample: TrainingSample) -> None:
    loader = sample.loader(4, 0, CPU)
    batches = endless(loader)
    taken = [next(batches).index.clone() for _ in range(4)]
    for epoch in (taken[:2], taken[2:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(8))
    assert loader.sampler.epoch == 1


def test_there_is_nothing_to_copy_on_a_cpu() -> None:
    assert measure_copy(CPU) is None
