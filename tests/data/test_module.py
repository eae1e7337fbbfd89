from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset, RandomSampler

from tests.data.loading.test_worker_loader import end_workers
from tests.support.tiny_data import annotation, coco_document, image, write_coco, write_image, write_yolo
from yolo_lightning.data.batch import Batch
from yolo_lightning.data.loading.worker_loader import WorkerLoader, prepare_worker
from yolo_lightning.data.module import DetectionDataModule
from yolo_lightning.errors import InputError


def write_splits(root: Path) -> None:
    """Ten images to train on, three to validate, one of them with 20 labels."""
    document = {**coco_document(), "images": [image(i, f"{i}.png") for i in range(1, 11)]}
    document["annotations"] = [annotation(i, i, 5, [0, 0, 10, 10]) for i in range(1, 11)]
    write_coco(root, document)
    val = copy.deepcopy(coco_document())
    val["annotations"] += [annotation(200 + i, 9, 5, [i, i, 9, 9]) for i in range(20)]
    write_coco(root, val, split="val")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_splits(tmp_path)
    return tmp_path


def make_module(root: Path | None, **options: Any) -> DetectionDataModule:
    options = {"image_size": 64, "batch_size": 4, "num_workers": 0, **options}
    return DetectionDataModule(None if root is None else str(root), **options)


@pytest.mark.parametrize("cache", ["auto", "none"])
def test_fit_loaders(root: Path, cache: str) -> None:
    data = make_module(root, cache=cache)
    data.setup("fit")
    train, val = list(data.train_dataloader()), list(data.val_dataloader())
    assert [len(batch.index) for batch in train] == [4, 4, 4]
    assert {int(i) for batch in train for i in batch.index} == set(range(10))
    assert {batch.targets.shape for batch in train} == {(4, 32, 5)}  # room for the 20 of the other split
    assert [batch.index.tolist() for batch in val] == [[1, 2], [0]]  # by shape: wide, then tall
    assert val[0].targets.shape == (2, 32, 5) and val[0].truth.shape == (2, 32, 7)
    assert (data.class_names, data.category_ids.tolist()) == (("dog", "cat"), [5, 90])
    assert (data.batch_size, data.image_size) == (4, 64)


def test_index_is_read_once(root: Path) -> None:
    data = make_module(root)
    data.build_indices("fit")
    index = data.index("train")
    for path in (root / "annotations").iterdir():
        path.unlink()
    data.setup("fit")
    assert data.index("train") is index


def test_class_names_before_any_index(root: Path) -> None:
    data = make_module(root)
    assert data.class_names == ("dog", "cat") and not data.indices
    assert data.category_ids.tolist() == [5, 90]


class _Threads(Dataset[Any]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: int) -> tuple[int, int]:
        return cv2.getNumThreads(), torch.get_num_threads()


def test_workers_have_one_thread(root: Path) -> None:
    loader = DataLoader(_Threads(), batch_size=None, num_workers=1, worker_init_fn=prepare_worker)
    assert [tuple(threads) for threads in loader] == [(1, 1)]
    data = make_module(root, num_workers=1)
    data.setup("validate")
    assert data.val_dataloader().worker_init_fn is prepare_worker  # training: see the loader's tests


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_takes_every_image_once_and_keeps_its_workers(root: Path, workers: int) -> None:
    data = make_module(root, num_workers=workers, batch_size=2)
    data.setup("validate")
    loader, dataset = data.val_dataloader(), data._dataset("val")
    assert loader.num_workers == workers and loader.persistent_workers == (workers > 0)
    for _ in range(2):
        found = list(loader)
        assert [batch.index.tolist() for batch in found] == [[1, 2], [0]]
        for batch in found:
            assert batch.images.is_contiguous(memory_format=torch.channels_last)
            assert batch.images.shape[2:] == tuple(dataset.canvases[int(batch.index[0])])
            for i, picture in zip(batch.index.tolist(), batch.images, strict=True):
                assert torch.equal(picture.permute(1, 2, 0), torch.from_numpy(dataset[i].image))
    assert not loader.pin_memory or torch.cuda.is_available()


def test_predict(root: Path) -> None:
    data = make_module(None, predict_source=[str(root / "images/val")])
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert [path.name for path in data.predict_sources.images] == ["a.png", "b.png", "c.png"]
    assert batch.original_sizes.tolist() == [[50, 30], [40, 60], [40, 60]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 100}, "100 is not a multiple of 32; use 96"),
        ({"image_size": 0}, "use 32"),
        ({"batch_size": 0}, "batch_size 0 is too small"),
        ({"num_workers": -1}, "num_workers -1 is negative"),
        ({"seed": -1}, "seed -1 is negative"),
        ({"cache": "disc"}, "'disc' is unknown; use auto, none, disk, ram or device"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_module(None, **options)


def test_missing_splits_and_sources(root: Path) -> None:
    with pytest.raises(InputError, match="there is no test split"):
        make_module(root).setup("test")
    (root / "annotations/instances_val.json").unlink()
    with pytest.raises(InputError, match="there is no val split"):
        make_module(root).setup("fit")
    with pytest.raises(InputError, match=r"--data\.predict_source"):
        make_module(root).setup("predict")
    with pytest.raises(InputError, match=r"--data\.root"):
        make_module(None).setup("fit")


def test_splits_must_agree_on_classes(root: Path) -> None:
    document = {**coco_document(), "categories": [{"id": 5, "name": "dog"}, {"id": 90, "name": "bird"}]}
    write_coco(root, document, split="val")
    with pytest.raises(InputError, match=r"instances_val\.json: its classes are not those of"):
        make_module(root).setup("fit")


def test_training_needs_a_label(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"a": None})
    write_image(tmp_path / "images/val/b.png")
    with pytest.raises(InputError, match="the train split has no label to learn from"):
        make_module(tmp_path).setup("fit")


class Recorder(LightningModule):
    """Notes which images come in which epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[int]] = [[], []]

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        self.seen[self.current_epoch] += batch.index.tolist()
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize(("cache", "workers"), [("none", 0), ("none", 2), ("disk", 1), ("device", 0)])
def test_lightning_keeps_the_sampler_and_tells_it_the_epoch(root: Path, cache: str, workers: int) -> None:
    model, data = Recorder(), make_module(root, seed=3, cache=cache, num_workers=workers)
    trainer = Trainer(max_epochs=2, accelerator="cpu", barebones=True)
    trainer.fit(model, datamodule=data)
    loader = trainer.train_dataloader
    assert loader is data._train_loader
    sampler = loader.sampler
    assert not isinstance(sampler, RandomSampler)
    for epoch, seen in enumerate(model.seen):
        sampler.set_epoch(epoch)
        assert seen == list(sampler)
    assert model.seen[0] != model.seen[1]
    if isinstance(loader, WorkerLoader):
        end_workers(loader)
