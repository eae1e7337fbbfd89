"""What a data module decides about caches, workers and devices."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.data.loading.test_worker_loader import end_workers
from tests.data.test_module import make_module, write_splits
from tests.support.tiny_data import coco_document, write_coco
from yolo_lightning.data import module as module_room
from yolo_lightning.data.batch import Batch
from yolo_lightning.data.cache_folder import FOLDER
from yolo_lightning.data.images import cache as cache_room
from yolo_lightning.data.loading.dataset import collate
from yolo_lightning.data.loading.ordered import DeviceLoader, Loading
from yolo_lightning.data.loading.worker_loader import WorkerLoader
from yolo_lightning.errors import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_splits(tmp_path)
    return tmp_path


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("cache", ["none", "ram", "disk", "device", "auto"])
def test_every_cache_and_any_workers_give_the_same_batches(root: Path, cache: str, workers: int) -> None:
    data = make_module(root, cache=cache, num_workers=workers)
    data.setup("fit")
    loader = data.train_dataloader()
    plain = make_module(root, cache="none")
    plain.setup("fit")
    dataset = plain._dataset("train")
    try:
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            order = loader.sampler.order(epoch)
            for number, batch in enumerate(loader):
                expected = collate([dataset[i] for i in order[4 * number : 4 * number + 4]])
                for name, a, b in zip(batch._fields[:-1], batch[:-1], expected[:-1], strict=True):
                    assert a.dtype == b.dtype and torch.equal(a, b), name
            assert number + 1 == len(loader) == 3
        for a, b in zip(data.val_dataloader(), plain.val_dataloader(), strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a[:-1], b[:-1], strict=True))
    finally:
        if isinstance(loader, WorkerLoader):
            end_workers(loader)


def test_which_cache_means_which_loader(root: Path) -> None:
    kinds = {"none": WorkerLoader, "disk": WorkerLoader, "device": DeviceLoader, "auto": DeviceLoader}
    for cache, kind in kinds.items():
        data = make_module(root, cache=cache)
        data.setup("fit")
        assert type(data.train_dataloader()) is kind, cache
        assert (root / FOLDER).is_dir() == (cache != "none")


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
@pytest.mark.parametrize("cache", ["auto", "device"])
def test_stages_without_training_take_any_cache(root: Path, stage: str, cache: str) -> None:
    write_coco(root, coco_document(), split="test")
    data = make_module(root, cache=cache, predict_source=str(root / "images/val"))
    data.setup(stage)
    loaders = {
        "validate": data.val_dataloader,
        "test": data.test_dataloader,
        "predict": data.predict_dataloader,
    }
    assert sum(len(batch.index) for batch in loaders[stage]()) == 3


def test_prepare_builds_what_setup_then_finds(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    draw = cache_room.draw

    def counting(*arguments: Any) -> None:
        drawn.append(str(arguments[1]))
        draw(*arguments)

    monkeypatch.setattr(cache_room, "draw", counting)
    data = make_module(root, cache="disk")
    data.prepare("fit", torch.device("cpu"))
    assert len(drawn) == 10 + 3
    data.setup("fit")
    list(data.train_dataloader())
    make_module(root, cache="disk").setup("fit")  # the process next door
    assert len(drawn) == 10 + 3


def test_prepare_places_for_the_device_of_the_training(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: {gpu: (7, 8)}[device])
    said: list[str] = []
    monkeypatch.setattr(module_room, "rank_zero_info", said.append)
    data = make_module(root)
    data.prepare("fit", gpu)
    # Ten images do not fit in 7 bytes.
    assert data.loading.cache == data.loading.fitting_cache == "disk"
    assert sum("cache: disk; decoded, the training images take" in line for line in said) == 1
    with pytest.raises(
        InputError, match=r"data\.cache device: .* free on cuda:1; set --data\.cache auto or disk"
    ):
        make_module(root, cache="device").prepare("fit", gpu)


@pytest.mark.parametrize(
    ("processes", "expected"), [(1, {1: 1, 3: 3, 64: 16}), (4, {1: 1, 3: 1, 64: 16, 24: 6})]
)
def test_automatic_workers_are_bounded_by_the_cores_of_a_process(
    root: Path, processes: int, expected: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 0))
    for cores, workers in expected.items():
        data = make_module(root, num_workers="auto", cache="none")
        data.trainer = SimpleNamespace(num_devices=processes, strategy=SimpleNamespace(root_device=gpu))
        monkeypatch.setattr(module_room, "usable_cores", lambda cores=cores: cores)
        data.setup("fit")
        assert data.loading.workers == data.val_dataloader().num_workers == workers
        assert data.loading.cores == max(1, cores // processes)


def test_cores_are_shared_by_processes_that_are_known_only_after_preparing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 0))
    monkeypatch.setattr(module_room, "usable_cores", lambda: 12)
    data = make_module(root, num_workers="auto", cache="none")
    data.prepare("fit", gpu)  # as the command line does, before a Trainer is attached
    data.trainer = SimpleNamespace(num_devices=4, strategy=SimpleNamespace(root_device=gpu))
    data.setup("fit")
    assert data.loading.cores == data.val_dataloader().num_workers == 3


def test_automatic_workers_are_none_where_training_needs_the_cores(root: Path) -> None:
    data = make_module(root, num_workers="auto", cache="none")
    data.setup("fit")
    assert data.train_dataloader().workers == data.val_dataloader().num_workers == 0


def test_the_facts_of_the_training_loader(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module_room, "usable_cores", lambda: 5)
    data = make_module(root, cache="none", num_workers=0)
    data.setup("fit")
    assert data.loading[:3] == ("none", 0, 5) and math.isnan(data.loading.read_fraction)
    list(data.train_dataloader())
    assert isinstance(data.loading, Loading)
    assert data.loading.read_fraction > 0 and data.loading.fitting_cache == "device"
    data = make_module(root, cache="device", num_workers=3)
    data.setup("fit")
    list(data.train_dataloader())
    assert data.loading == Loading("device", 0, 5, 0.0, "device")
    monkeypatch.setattr("yolo_lightning.data.images.choose_cache.available_memory", lambda: 0)
    data = make_module(root, cache="disk", num_workers=3)
    data.setup("fit")
    assert data.loading[:3] == ("disk", 3, 5) and data.loading.fitting_cache is None


def test_batches_that_are_on_the_device_stay_as_they_are(root: Path) -> None:
    data = make_module(root)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    left = data.transfer_batch_to_device(batch, torch.device("cpu"), 0)
    assert all(a is b for a, b in zip(left[:-1], batch[:-1], strict=True))
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert isinstance(moved, Batch) and all(tensor.device.type == "meta" for tensor in moved[:-1])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_begins_with_its_epoch(root: Path, workers: int) -> None:
    data = make_module(root, seed=3, cache="none", num_workers=workers)
    data.setup("fit")
    progress = SimpleNamespace(current=SimpleNamespace(processed=5))
    data.trainer = SimpleNamespace(fit_loop=SimpleNamespace(epoch_progress=progress))
    loader = data.train_dataloader()
    try:
        assert loader.sampler.epoch == 5
        seen = [i for batch in loader for i in batch.index.tolist()]
        assert seen == loader.sampler.order(5)
    finally:
        end_workers(loader)
