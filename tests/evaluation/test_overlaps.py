import numpy as np
import torch
import torchvision

from yolo_lightning.evaluation.overlaps import box_areas, overlapping_pairs, pair_iou

FIRST = np.array([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 0, 0]])
SECOND = np.array([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [22, 22, 24, 24], [0, 0, 0, 0]])
NO_CROWD = np.zeros(5, bool)


def test_iou_by_hand() -> None:
    assert box_areas(SECOND).tolist() == [100, 100, 100, 4, 0]
    assert pair_iou(FIRST, SECOND, NO_CROWD).tolist() == [1.0, 50 / 150, 0.0, 4 / 100, 0.0]
    assert pair_iou(FIRST, SECOND, ~NO_CROWD).tolist() == [1.0, 0.5, 0.0, 4 / 100, 0.0]  # over the first


def test_iou_equals_torchvision() -> None:
    generator = torch.Generator().manual_seed(2)
    low = torch.rand(2, 60, 2, generator=generator, dtype=torch.float64) * 100
    boxes = torch.cat(
        (low, low + 1 + torch.rand(2, 60, 2, generator=generator, dtype=torch.float64) * 200), 2
    )
    found = pair_iou(boxes[0].numpy(), boxes[1].numpy(), np.zeros(60, bool))
    expected = torchvision.ops.box_iou(boxes[0], boxes[1]).diagonal()
    torch.testing.assert_close(torch.from_numpy(found), expected)
    assert 10 < (found > 0).sum() < 60


def test_only_boxes_of_one_group_are_paired() -> None:
    group = np.arange(5)
    d, g, iou = overlapping_pairs(group, FIRST, group[::-1], SECOND, NO_CROWD, 0.3)
    assert d.size == g.size == iou.size == 0
    boxes = FIRST.astype(np.float32)
    d, g, iou = overlapping_pairs(group // 3, boxes, group // 3, SECOND.astype(np.float32), NO_CROWD, 0.3)
    assert sorted(zip(d, g, iou.round(3), strict=True)) == [
        (row, column, iou) for row in range(3) for column, iou in ((0, 1.0), (1, 0.333))
    ]
