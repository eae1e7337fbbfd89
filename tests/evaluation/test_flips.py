from __future__ import annotations

import pytest
import torch

from yolo_lightning.evaluation.flips import FLIPS, predict_flipped
from yolo_lightning.model.network import DetectionNetwork, build_network


@pytest.fixture(scope="module", params=["yolov5n", "yolov5nu"])
def network(request: pytest.FixtureRequest) -> DetectionNetwork:
    torch.manual_seed(0)
    network = build_network(request.param, 2).eval()
    with torch.no_grad():
        for parameter in network.head.parameters():  # an untrained head says the same in each cell
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return network


@pytest.mark.parametrize("dims", FLIPS)
@torch.no_grad()
def test_a_flipped_image_has_the_mirrored_boxes_in_the_mirrored_cells(
    network: DetectionNetwork, dims: tuple[int, ...]
) -> None:
    images = torch.rand(1, 3, 64, 96)
    boxes, scores = network.head.decode(network(images.flip(dims)))
    found, found_scores = predict_flipped(network, images, dims)
    # One row after the other: a level is, anchor by anchor, the rows of its map.
    source: list[int] = []
    anchors = boxes.shape[1] // sum(64 * 96 // s**2 for s in network.strides)
    for stride in network.strides:
        height, width = 64 // stride, 96 // stride
        for first in [len(source) + height * width * anchor for anchor in range(anchors)]:
            for row in range(height):
                turned = height - 1 - row if 2 in dims else row
                columns = range(width - 1, -1, -1) if 3 in dims else range(width)
                source += [first + turned * width + column for column in columns]
    x1, y1, x2, y2 = boxes[0, source].T
    x1, x2 = (96 - x2, 96 - x1) if 3 in dims else (x1, x2)
    y1, y2 = (64 - y2, 64 - y1) if 2 in dims else (y1, y2)
    torch.testing.assert_close(found[0], torch.stack((x1, y1, x2, y2), dim=1))
    torch.testing.assert_close(found_scores[0], scores[0, source])
