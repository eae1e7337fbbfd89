from pathlib import Path

import pytest
import torch

from tests.support.label_tables import join
from tests.support.small_network import write_small_yaml
from yolo_lightning.model.losses import LossConfigs
from yolo_lightning.model.network import build_network
from yolo_lightning.training.step import (
    Prepared,
    add_gradients,
    add_to_means,
    training_losses,
)


def test_means_are_those_of_all_batches() -> None:
    first, *others = [{"box": torch.tensor(value)} for value in (1.0, 4.0, 10.0)]
    means = add_to_means(add_to_means({}, [first], 1), others, 3)
    assert means["box"].item() == pytest.approx(5.0)


@pytest.mark.parametrize("labels", [(3, 0), (0, 0), (1, 4)])
@pytest.mark.parametrize("anchors", [True, False], ids=["anchors", "anchor-free"])
def test_batches_joined_have_the_losses_and_gradients_of_one(
    tmp_path: Path, anchors: bool, labels: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    network = build_network(
        write_small_yaml(tmp_path, anchors), 3
    ).eval()  # batch norms do not see who is in a batch
    criterion = network.head.build_loss(LossConfigs())
    corner = torch.rand(4, 16, 2) * 40
    targets = torch.cat((torch.randint(3, (4, 16, 1)), corner, corner + 8 + torch.rand(4, 16, 2) * 16), 2)
    count = torch.tensor([labels[0], 0, labels[1], labels[1]])
    images, mask = torch.rand(4, 3, 64, 64), torch.arange(16) < count[:, None]
    whole, *halves = (
        Prepared(images[rows], *join(targets[rows], mask[rows]))
        for rows in (slice(4), slice(0, 2), slice(2, 4))
    )

    def take(batches: list[Prepared], joint: bool) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        network.zero_grad()
        found = add_gradients(
            training_losses, network, criterion, batches,
            lambda loss: (loss * len(batches[0].images)).backward(), joint,
        )  # fmt: skip
        means = add_to_means({}, found, len(found))
        return [p.grad.clone() for p in network.parameters() if p.grad is not None], means

    (gradients, parts), (expected, expected_parts) = take(halves, True), take([whole], False)
    assert len(gradients) == len(expected) > 30
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=0, atol=1e-5 * float(other.abs().max()))
    assert parts.keys() == expected_parts.keys() == set(criterion.parts)
    torch.testing.assert_close(parts, expected_parts, rtol=1e-5, atol=1e-7)


def test_gains_that_act_are_said() -> None:
    criterion = build_network("yolov5n", 20).head.build_loss(LossConfigs())
    said = criterion.describe_gains(320)
    assert "objectness gain 1 as 0.25" in said and "class gain 0.5 as 0.125" in said


def test_a_head_gets_its_own_loss() -> None:
    for architecture, parts in (("yolov5n", {"box", "obj", "cls"}), ("yolov5nu", {"box", "cls", "dfl"})):
        network = build_network(architecture, 2)
        criterion = network.head.build_loss(LossConfigs())
        mask = torch.zeros(16, dtype=torch.bool)
        loss, named = training_losses(network, criterion, torch.rand(1, 3, 64, 64), torch.zeros(16, 6), mask)
        assert named.keys() == parts
        assert loss.item() == pytest.approx(sum(value.item() for value in named.values()), rel=1e-5)
        loss.backward()
        assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


def test_losses_stay_in_float32_under_autocast() -> None:
    network = build_network("yolov5n", 2)
    criterion = network.head.build_loss(LossConfigs())
    images, targets, mask = torch.rand(2, 3, 64, 64), torch.zeros(16, 6), torch.arange(16) < 2
    targets[:2] = torch.tensor([[0, 1, 8, 8, 40, 50], [1, 1, 8, 8, 40, 50]])
    with torch.autocast("cpu", torch.bfloat16):
        loss, named = training_losses(network, criterion, images, targets, mask)
    assert loss.dtype == torch.float32
    assert {value.dtype for value in named.values()} == {torch.float32}
