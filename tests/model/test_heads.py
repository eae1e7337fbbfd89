from __future__ import annotations

import math

import pytest
import torch

from yolo_lightning.model.heads import AnchorFreeHead, AnchorHead


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_decode_anchor_equals_the_formula() -> None:
    generator = torch.Generator().manual_seed(5)
    strides = (8, 16)
    anchors = torch.tensor([[[1.25, 1.625], [2.0, 3.75]], [[1.875, 3.8125], [3.875, 2.8125]]])
    maps = [torch.randn((2, 2, *size, 5 + 3), generator=generator) * 2 for size in ((4, 6), (2, 3))]
    in_px = anchors * torch.tensor(strides)[:, None, None]
    boxes, scores = AnchorHead(3, in_px, (4, 4), strides).decode(maps)
    assert boxes.shape == (2, 2 * 24 + 2 * 6, 4)
    assert scores.shape == (2, 60, 3)
    for image in range(2):
        k = 0
        for level, stride in enumerate(strides):
            for anchor in range(2):
                for row in range(maps[level].shape[2]):
                    for column in range(maps[level].shape[3]):
                        x, y, w, h, obj, *classes = maps[level][image, anchor, row, column].tolist()
                        cx = (2 * sigmoid(x) - 0.5 + column) * stride
                        cy = (2 * sigmoid(y) - 0.5 + row) * stride
                        width = (2 * sigmoid(w)) ** 2 * anchors[level, anchor, 0].item() * stride
                        height = (2 * sigmoid(h)) ** 2 * anchors[level, anchor, 1].item() * stride
                        expected = [cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2]
                        assert boxes[image, k].tolist() == pytest.approx(expected, abs=1e-4)
                        score = [sigmoid(obj) * sigmoid(value) for value in classes]
                        assert scores[image, k].tolist() == pytest.approx(score, abs=1e-6)
                        k += 1


def test_decode_anchor_free_equals_the_formula() -> None:
    generator = torch.Generator().manual_seed(6)
    strides, reg_max, classes = (8, 16), 16, 2
    maps = [
        torch.randn((2, 4 * reg_max + classes, *size), generator=generator) * 2 for size in ((3, 4), (2, 2))
    ]
    boxes, scores = AnchorFreeHead(classes, (4, 4), strides).decode(maps)
    assert boxes.shape == (2, 16, 4)
    assert scores.shape == (2, 16, classes)
    for image in range(2):
        k = 0
        for raw, stride in zip(maps, strides, strict=True):
            for row in range(raw.shape[2]):
                for column in range(raw.shape[3]):
                    values = raw[image, :, row, column].tolist()
                    sides = []
                    for side in range(4):
                        weights = [math.exp(v) for v in values[side * reg_max : (side + 1) * reg_max]]
                        sides.append(sum(i * w for i, w in enumerate(weights)) / sum(weights))
                    left, top, right, bottom = sides
                    cx, cy = column + 0.5, row + 0.5
                    expected = [v * stride for v in (cx - left, cy - top, cx + right, cy + bottom)]
                    assert boxes[image, k].tolist() == pytest.approx(expected, abs=1e-4)
                    score = [sigmoid(value) for value in values[4 * reg_max :]]
                    assert scores[image, k].tolist() == pytest.approx(score, abs=1e-6)
                    k += 1


def test_half_precision_maps_are_decoded_in_float32() -> None:
    generator = torch.Generator().manual_seed(7)
    classic = [torch.randn((1, 1, 4, 4, 6), generator=generator).bfloat16()]
    free = [torch.randn((1, 4 * 16 + 1, 4, 4), generator=generator).bfloat16()]
    for maps, head in (
        (classic, AnchorHead(1, torch.full((1, 1, 2), 32.0), (4,), (32,))),
        (free, AnchorFreeHead(1, (4,), (32,))),
    ):
        high = head.decode([maps[0].float()])
        for a, b in zip(head.bfloat16().decode(maps), high, strict=True):
            assert a.dtype == torch.float32
            assert torch.equal(a, b)
