import torch

from yolo_lightning.data.batch import Batch
from yolo_lightning.evaluation.detect import MeanLosses, detect
from yolo_lightning.model.network import build_network


def test_one_hot_cell_comes_back_in_original_pixels() -> None:
    # An image of 128 x 64 px letterboxed to 64: gain 0.5, 16 rows of padding above.
    network = build_network("yolov5n", 2)
    maps = [torch.full((1, 3, 64 // s, 64 // s, 7), -20.0) for s in (8, 16, 32)]
    # Stride 16, row 1, column 2, anchor 0 (30 x 61 px): centre ((0.5 * 2 - 0.5) + cell) * 16 = (40, 24),
    # sides 1 x anchor at sigmoid 0.5.
    maps[1][0, 0, 1, 2] = torch.tensor([0.0, 0.0, 0.0, 0.0, 20.0, -20.0, 20.0])
    empty = torch.zeros(1, dtype=torch.int64)
    batch = Batch(
        images=torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        targets=torch.zeros(1, 16, 5),
        count=empty,
        index=empty,
        image_ids=empty,
        original_sizes=torch.tensor([[64, 128]]),
        letterbox=torch.tensor([[0.5, 0.5, 0.0, 16.0]]),
        truth=torch.zeros(1, 0, 7),
        truth_count=empty,
    )
    detections, counts = detect(network.head, maps, batch, score_threshold=0.5)
    assert counts.tolist() == [1]
    # Letterboxed (25, -6.5, 55, 54.5); minus the padding and doubled, then clipped to 128 x 64.
    expected = torch.tensor([50.0, 0.0, 110.0, 64.0, 1.0, 1.0])
    torch.testing.assert_close(detections[0, 0], expected, rtol=1e-4, atol=1e-4)


def test_losses_are_weighted_by_the_images_of_their_batches() -> None:
    losses = MeanLosses(("loss", "box_loss"))
    losses.add({"box_loss": torch.tensor(1.0), "loss": torch.tensor(4.0)}, images=3)
    losses.add({"box_loss": torch.tensor(5.0), "loss": torch.tensor(8.0)}, images=1)
    means = losses.take(torch.device("cpu"))
    assert {name: float(value) for name, value in means.items()} == {"loss": 5.0, "box_loss": 2.0}
    assert all(torch.isnan(value) for value in losses.take(torch.device("cpu")).values())  # a new start
