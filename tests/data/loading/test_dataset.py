from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.support.tiny_data import annotation, coco_document, image, write_coco, write_image
from yolo_lightning.data.annotations.coco import CocoReader
from yolo_lightning.data.annotations.index import DatasetIndex
from yolo_lightning.data.batch import row_mask
from yolo_lightning.data.images.cache import open_cache
from yolo_lightning.data.images.decode import draw, header_size, read_bytes
from yolo_lightning.data.letterbox import from_letterbox
from yolo_lightning.data.loading import dataset as dataset_room
from yolo_lightning.data.loading.dataset import DetectionDataset, PredictionDataset, collate
from yolo_lightning.data.loading.sources import list_images
from yolo_lightning.errors import InputError


@pytest.fixture
def index(tmp_path: Path) -> DatasetIndex:
    return CocoReader(write_coco(tmp_path, coco_document()), "train").read()


def _square(index: DatasetIndex, i: int, image_size: int, train: bool) -> np.ndarray:
    """Image i on a square, straight from its file."""
    path = index.path(i)
    canvas = np.empty((image_size, image_size, 3), np.uint8)
    draw(read_bytes(path), path, header_size(path), (image_size, image_size), train, canvas)
    return canvas


def test_sample_in_letterboxed_pixels_by_hand(index: DatasetIndex) -> None:
    # Image b, 60 x 40 px at 96 px: gain 1.6, 64 rows of content below 16 of padding.
    sample = DetectionDataset(index, (96, 96), 16, train=True)[1]
    np.testing.assert_array_equal(sample.letterbox, np.array([1.6, 1.6, 0, 16], np.float32))
    assert sample.label_count == 2
    np.testing.assert_allclose(sample.targets[:2], [[1, 16, 32, 48, 64], [0, 80, 64, 96, 80]], rtol=1e-6)
    assert not sample.targets[2:].any() and sample.targets.shape == (16, 5)
    assert sample.truth.shape == (0, 7) and sample.truth_count == 0
    assert tuple(sample.original_size) == header_size(index.path(1)) == (40, 60)
    np.testing.assert_array_equal(sample.image, _square(index, 1, 96, train=True))


def test_labels_of_an_image_that_is_decoded_smaller_follow_its_true_size(tmp_path: Path) -> None:
    # 301 x 203 px at 64 px is decoded at 76 x 51 px, a quarter; its letterbox is that of 301 x 203 px:
    # 64 columns, 43.16 and so 44 rows, 10 rows of padding above.
    document = {
        "images": [image(1, "a.jpg", 203, 301)],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [annotation(1, 1, 1, [30, 20, 150, 60])],
    }
    index = CocoReader(write_coco(tmp_path, document), "train").read()
    sample = DetectionDataset(index, (64, 64), 16, train=True)[0]
    assert tuple(sample.original_size) == (203, 301)
    np.testing.assert_array_equal(sample.letterbox, np.array([64 / 301, 44 / 203, 0, 10], np.float32))
    x, y = 64 / 301, 44 / 203
    np.testing.assert_allclose(sample.targets[0, 1:], [30 * x, 10 + 20 * y, 180 * x, 10 + 80 * y], rtol=1e-6)
    assert (sample.image[:10] == 114).all() and (sample.image[54:] == 114).all()
    assert (sample.image[10:54] != 114).any(axis=(1, 2)).all()


def test_a_sample_is_drawn_where_it_is_told_and_labels_need_no_file(index: DatasetIndex) -> None:
    dataset = DetectionDataset(index, (64, 64), 16, train=True)
    canvas = np.full((64, 64, 3), 7, np.uint8)
    sample = dataset.timed_sample(1, canvas)[0]
    assert sample.image is canvas
    expected = dataset[1]
    np.testing.assert_array_equal(canvas, expected.image)
    index.path(1).unlink()
    labels = dataset.labels(1)
    assert labels.image.shape == (0, 0, 3)
    for found in (labels, sample):
        np.testing.assert_array_equal(found.targets, expected.targets)
        assert found[2:5] == expected[2:5] and found.truth_count == expected.truth_count
        np.testing.assert_array_equal(found.original_size, expected.original_size)
        np.testing.assert_array_equal(found.letterbox, expected.letterbox)


def test_time_spent_reading_is_counted(index: DatasetIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = DetectionDataset(index, (64, 64), 16, train=True)
    clock = iter(range(0, 1000, 7))
    monkeypatch.setattr(dataset_room, "perf_counter_ns", lambda: next(clock))
    canvas = np.empty((64, 64, 3), np.uint8)
    assert [dataset.timed_sample(i, canvas)[1] for i in (0, 1, 2, 1)] == [7] * 4
    cached = DetectionDataset(
        index, (64, 64), 16, train=True, cache=open_cache(index, (64, 64), True, "disk")
    )
    assert cached.timed_sample(0, canvas)[1] == 0


def test_evaluation_carries_the_raw_truth(index: DatasetIndex) -> None:
    samples = [DetectionDataset(index, (64, 64), 16, train=False)[i] for i in range(3)]
    assert [sample.truth_count for sample in samples] == [1, 5, 0]
    for i, sample in enumerate(samples):
        assert sample.truth.shape == (16, 7)
        np.testing.assert_array_equal(sample.truth[: sample.truth_count], index.truth(i))
        assert not sample.truth[sample.truth_count :].any()


def test_evaluation_lies_in_the_smallest_rectangle_half_a_stride_wider(index: DatasetIndex) -> None:
    # 50 x 30 px at 64 px is 64 x 39: 2.5 and 1.72 strides, so 3 and 2; 40 x 60 px is 43 x 64.
    dataset = DetectionDataset(index, (64, 64), 16, train=False)
    assert dataset.canvases.tolist() == [[96, 64], [64, 96], [64, 96]]
    sample = dataset[0]
    assert sample.image.shape == (96, 64, 3)
    square = _square(index, 0, 64, train=False)
    np.testing.assert_array_equal(sample.image[16:80, 12:51], square[:, 12:51])
    assert (sample.image[:16] == 114).all() and (sample.image[:, 51:] == 114).all()
    np.testing.assert_array_equal(sample.letterbox, np.array([39 / 30, 64 / 50, 12, 16], np.float32))
    # The label moves with the pixels.
    np.testing.assert_allclose(sample.targets[0, 1:], [12, 16, 12 + 13, 16 + 30 * 64 / 50], rtol=1e-6)


def test_evaluation_in_strides_of_64(index: DatasetIndex) -> None:
    assert DetectionDataset(index, (64, 64), 16, train=False, stride=64).canvases.tolist() == [[128, 128]] * 3


def test_prediction_pads_to_whole_strides_alone(index: DatasetIndex) -> None:
    dataset = PredictionDataset([index.path(i) for i in range(3)], (64, 64))
    assert dataset.canvases.tolist() == [[64, 64], [64, 64], [64, 64]]
    dataset = PredictionDataset([index.path(0)], (320, 320))
    # 50 x 30 px becomes 320 x 192 px: nothing is padded.
    assert dataset[0].image.shape == (320, 192, 3)
    np.testing.assert_array_equal(dataset[0].letterbox, np.array([192 / 30, 320 / 50, 0, 0], np.float32))


def test_batch_has_the_documented_types_and_layout(index: DatasetIndex) -> None:
    batch = collate([DetectionDataset(index, (64, 64), 32, train=True)[i] for i in (2, 0)])
    assert batch.images.shape == (2, 3, 64, 64) and batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(batch.images[1].permute(1, 2, 0), _square(index, 0, 64, train=True))
    assert batch.targets.shape == (2, 32, 5) and batch.targets.dtype == torch.float32
    for name in ("count", "index", "image_ids", "original_sizes", "truth_count"):
        assert getattr(batch, name).dtype == torch.int64, name
    assert batch.letterbox.shape == (2, 4) and batch.letterbox.dtype == torch.float32
    assert batch.index.tolist() == [2, 0] and batch.image_ids.tolist() == [9, 3]
    assert batch.original_sizes.tolist() == [[40, 60], [50, 30]]
    assert batch.count.tolist() == [0, 1]
    # The transform back is the inverse of what was done to the labels.
    back = from_letterbox(batch.targets[..., 1:], batch.letterbox, batch.original_sizes)
    torch.testing.assert_close(back[row_mask(batch.count, 32)], torch.tensor([[0.0, 0, 10, 30]]))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_give_the_same_batches(index: DatasetIndex, context: str) -> None:
    dataset = DetectionDataset(index, (64, 64), 16, train=True)
    here = collate([dataset[i] for i in range(3)])
    loader = DataLoader(dataset, 3, num_workers=1, collate_fn=collate, multiprocessing_context=context)
    (there,) = loader
    assert there.images.is_contiguous(memory_format=torch.channels_last)
    for name, a, b in zip(here._fields[:-1], here[:-1], there[:-1], strict=True):
        assert torch.equal(a, b), name


def test_no_label_is_dropped_where_there_is_too_little_room(index: DatasetIndex) -> None:
    with pytest.raises(ValueError, match="broadcast"):
        DetectionDataset(index, (64, 64), 1, train=True)[1]


def test_unreadable_image_in_a_worker_keeps_its_sentence(index: DatasetIndex) -> None:
    index.path(1).write_text("broken")
    loader = DataLoader(
        DetectionDataset(index, (64, 64), 16, train=True), 3, num_workers=1, collate_fn=collate
    )
    with pytest.raises(InputError) as error:
        list(loader)
    last = str(error.value).strip().splitlines()[-1]
    assert last.endswith(f"{index.path(1)}: not a readable image; replace or remove it")


def test_a_changed_image_is_noticed(index: DatasetIndex) -> None:
    write_image(index.path(1), 30, 30)
    with pytest.raises(
        InputError, match=r"b\.png: the image is 30 x 30 px but its annotations say 60 x 40 px"
    ):
        DetectionDataset(index, (64, 64), 16, train=True)[1]


def test_prediction_has_the_shapes_of_training(tmp_path: Path) -> None:
    for n, name in enumerate(("b.png", "deep/a.PNG", "c.txt")):
        if name.endswith("txt"):
            (tmp_path / name).write_text("")
        else:
            write_image(tmp_path / name, 20 + n, 30)
    paths = list_images(str(tmp_path))
    assert [path.name for path in paths] == ["b.png", "a.PNG"]
    dataset = PredictionDataset(paths, (64, 64))
    batch = collate([dataset[i] for i in range(len(dataset))])
    assert batch.images.shape == (2, 3, 64, 64)
    assert batch.targets.shape == (2, 16, 5) and not batch.targets.any() and not batch.count.any()
    assert batch.truth.shape == (2, 0, 7) and not batch.truth_count.any()
    assert batch.original_sizes.tolist() == [[20, 30], [21, 30]]
    assert batch.image_ids.tolist() == [1, 2]


def test_list_images_takes_files_and_folders_in_order_once(tmp_path: Path) -> None:
    for name in ("x/2.png", "x/1.png", "y.png"):
        write_image(tmp_path / name)
    paths = list_images([str(tmp_path / "y.png"), str(tmp_path / "x"), str(tmp_path / "x/1.png")])
    assert [path.name for path in paths] == ["y.png", "1.png", "2.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: the folder has no images"):
        list_images(str(tmp_path / "empty"))
    with pytest.raises(InputError, match=r"none\.png: no such image or folder"):
        list_images([str(tmp_path / "y.png"), str(tmp_path / "none.png")])
    with pytest.raises(InputError, match="nothing to predict"):
        list_images([])


def test_a_dataset_pickles_small(index: DatasetIndex) -> None:
    assert len(pickle.dumps(DetectionDataset(index, (640, 640), 16, train=True))) < 10_000
