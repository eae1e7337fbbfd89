from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.tiny_data import write_yolo
from yolo_lightning.data.batch import Batch, on_canvas
from yolo_lightning.data.letterbox import enclosing_rectangle, letterbox_geometry
from yolo_lightning.data.loading.dataset import DetectionDataset, collate
from yolo_lightning.data.loading.rectangles import training_rectangles
from yolo_lightning.data.loading.sampler import TrainSampler
from yolo_lightning.data.module import DetectionDataModule

WIDE, SQUARE, TALL = (32, 64), (64, 64), (64, 32)


def test_few_aspect_ratios_have_a_shape_each() -> None:
    sizes = np.array([[480, 640], [720, 1280], [640, 480], [479, 640], [360, 640]], np.int32)
    assert training_rectangles(sizes, (640, 640), 32).tolist() == [
        [480, 640], [384, 640], [640, 480], [480, 640], [384, 640],
    ]  # fmt: skip


def test_images_of_one_size_have_one_shape() -> None:
    assert training_rectangles(np.array([[100, 200]] * 5, np.int32), (64, 64), 32).tolist() == [[32, 64]] * 5


@pytest.mark.parametrize("seed", range(4))
def test_the_shapes_hold_their_images_and_no_three_have_a_smaller_area(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(100, 1000, (60, 2)).astype(np.int32)
    found = training_rectangles(sizes, (256, 256), 32)
    assert len(np.unique(found, axis=0)) <= 3 and (found.max(axis=1) == 256).all() and not (found % 32).any()
    scaled = [letterbox_geometry(h, w, (256, 256)) for h, w in sizes.tolist()]
    own = np.array([enclosing_rectangle(p.height, p.width, 32, 0) for p in scaled])
    assert (found >= own).all()
    own = own[np.argsort(own[:, 0] / own[:, 1], kind="stable")]
    ends = [i for i in range(1, 60) if (own[i] != own[i - 1]).any()]
    areas = [
        sum((b - a) * own[a:b].max(axis=0).prod() for a, b in pairwise((0, *cuts, 60)))
        for cuts in combinations(ends, 2)
    ]
    assert found.prod(axis=1).sum() == min(areas)


@pytest.mark.parametrize("world", [1, 2])
def test_each_image_comes_once_in_a_batch_that_holds_it(world: int) -> None:
    canvases = np.array([WIDE] * 21 + [TALL] * 10 + [SQUARE] * 5)[np.random.default_rng(0).permutation(36)]
    samplers = [TrainSampler(range(36), 2, 3, world, rank, canvases=canvases) for rank in range(world)]
    orders = [sampler.order(1) for sampler in samplers]
    together = sorted(i for order in orders for i in order)
    assert together == list(range(36))
    shapes = samplers[0].shapes(1)
    assert all(sampler.shapes(1) == shapes for sampler in samplers) and len(shapes) == len(orders[0]) // 2
    for order in orders:
        own = [canvases[order[k : k + 2]] for k in range(0, len(order), 2)]
        assert all((batch <= shape).all() for batch, shape in zip(own, shapes, strict=True))
    joined = 2 * world
    whole = 21 // joined + 10 // joined + 5 // joined
    assert [shapes[:whole].count(shape) for shape in (WIDE, TALL)] == [21 // joined, 10 // joined]
    assert shapes != samplers[0].shapes(2)


def test_a_resumed_epoch_is_the_rest_with_its_shapes() -> None:
    canvases = np.array([WIDE, TALL] * 12)
    whole = TrainSampler(range(24), 4, 5, 1, 0, canvases=canvases)
    resumed = TrainSampler(range(24), 4, 5, 1, 0, canvases=canvases)
    resumed.resume(2, seen=8)
    assert resumed.order(2) == whole.order(2)[8:] and resumed.shapes(2) == whole.shapes(2)[2:]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    label = "0 0.5 0.5 0.4 0.4\n1 0.1 0.2 0.2 0.4\n"
    write_yolo(tmp_path, {f"{i}": label for i in range(10)})  # of 40 x 60 px
    write_yolo(tmp_path, {"a": label}, split="val")
    return tmp_path


def test_a_batch_is_cut_to_what_the_data_set_draws_on_the_rectangle(root: Path) -> None:
    index = DetectionDataModule(root=str(root), image_size=96).index("train")
    squares, rectangles = (DetectionDataset(index, (96, 96), 16, train=True) for _ in range(2))
    rectangles.canvases[:] = (64, 96)
    whole, expected = (collate([each[i] for i in range(3)]) for each in (squares, rectangles))
    cut = on_canvas(whole, 64, 96)
    assert cut.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(cut.images, expected.images)
    torch.testing.assert_close(tuple(cut), tuple(expected), rtol=0, atol=1e-4)
    torch.testing.assert_close(tuple(on_canvas(cut, 96, 96)), tuple(whole), rtol=0, atol=1e-4)


def test_boxes_out_of_the_rectangle_are_clipped_to_it(root: Path) -> None:
    index = DetectionDataModule(root=str(root), image_size=96).index("train")
    cut = on_canvas(collate([DetectionDataset(index, (96, 96), 16, train=True)[0]]), 32, 96)
    np.testing.assert_allclose(cut.targets[0, :2, [2, 4]], [[3.2, 28.8], [0, 9.6]], rtol=1e-5)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_gives_rectangles(root: Path, workers: int) -> None:
    data = DetectionDataModule(
        root=str(root), image_size=96, batch_size=4, num_workers=workers, cache="none", rect=True
    )
    data.setup("fit")
    loader = data.train_dataloader()
    batches: list[Batch] = list(loader)
    assert [tuple(batch.images.shape) for batch in batches] == [(4, 3, 64, 96)] * 3
    squares = DetectionDataset(data.index("train"), (96, 96), 16, train=True)
    for batch in batches:
        expected = on_canvas(collate([squares[i] for i in batch.index.tolist()]), 64, 96)
        assert all(torch.equal(a, b) for a, b in zip(batch[:-1], expected[:-1], strict=True))
    data.teardown("fit")
