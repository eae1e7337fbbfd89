"""What in a batch was the first value that is not finite."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.support.small_network import write_small_yaml
from yolo_lightning.model.losses import AnchorFreeLossConfig, AnchorLossConfig, DetectionLoss, LossConfigs
from yolo_lightning.model.network import DetectionNetwork, build_network
from yolo_lightning.training.divergence import diagnose, losses_are_sound, magnitude
from yolo_lightning.training.step import Prepared


@pytest.fixture(params=[True, False], ids=["anchors", "anchor-free"])
def parts(
    request: pytest.FixtureRequest, tmp_path: Path
) -> tuple[DetectionNetwork, DetectionLoss, list[Prepared]]:
    torch.manual_seed(0)
    network = build_network(write_small_yaml(tmp_path, anchors=request.param), 3)
    criterion = network.head.build_loss(LossConfigs(AnchorLossConfig(), AnchorFreeLossConfig()))
    targets = torch.tensor([[0, 1, 8, 8, 40, 50], [1, 1, 8, 8, 40, 50], [0] * 6], dtype=torch.float32)
    mask = torch.tensor([True, True, False])
    return network, criterion, [Prepared(torch.rand(2, 3, 64, 64), targets.clone(), mask) for _ in range(2)]


def test_nothing_is_found_in_a_sound_batch(
    parts: tuple[DetectionNetwork, DetectionLoss, list[Prepared]],
) -> None:
    assert diagnose(*parts) is None
    assert all(value.grad is None for value in parts[0].parameters())  # what waits for a step stays


def test_the_first_culprit_is_named(parts: tuple[DetectionNetwork, DetectionLoss, list[Prepared]]) -> None:
    network, _, (_, second) = parts
    second.targets[2] = math.nan  # a row that is no label
    assert diagnose(*parts) is None
    second.targets[0, 3] = math.inf
    diagnosis = diagnose(*parts)
    assert diagnosis is not None and (diagnosis.part, diagnosis.rows) == ("labels", (2,))
    second.images[1, 2, 3, 4] = math.nan
    diagnosis = diagnose(*parts)
    assert diagnosis is not None
    assert (diagnosis.part, diagnosis.layer, diagnosis.rows) == ("images", "model.0.conv", (3,))
    with torch.no_grad():
        network.model[3].cv2.conv.weight[0, 0] = math.inf  # type: ignore[union-attr, index]
    diagnosis = diagnose(*parts)
    assert (
        diagnosis is not None and diagnosis.part == "weights" and "model.3.cv2.conv.weight" in diagnosis.text
    )


def test_a_layer_that_overflows_is_named(
    parts: tuple[DetectionNetwork, DetectionLoss, list[Prepared]],
) -> None:
    network = parts[0]
    with torch.no_grad():
        network.model[4].bn.weight.fill_(3e38)  # type: ignore[union-attr, operator]
    diagnosis = diagnose(*parts)
    assert diagnosis is not None and diagnosis.part == "layer"
    assert diagnosis.layer == "model.4.bn" and "model.4.bn" in diagnosis.text


def test_a_loss_that_explodes_and_a_gradient_are_named(
    parts: tuple[DetectionNetwork, DetectionLoss, list[Prepared]],
) -> None:
    network = parts[0]
    network.model[3].cv2.conv.weight.register_hook(lambda gradient: gradient * math.nan)  # type: ignore[union-attr, operator]
    diagnosis = diagnose(*parts)
    assert (
        diagnosis is not None and diagnosis.part == "gradient" and "model.3.cv2.conv.weight" in diagnosis.text
    )
    with torch.no_grad():
        for value in network.head.parameters():  # type: ignore[attr-defined]
            value.fill_(1e9)
    diagnosis = diagnose(*parts)
    assert diagnosis is not None and diagnosis.part == "loss" and diagnosis.layer is None


def test_magnitude_and_soundness() -> None:
    assert magnitude([torch.tensor([1.0, -3.0]), torch.tensor(7), torch.empty(0)]) == 3
    assert magnitude([torch.tensor([-math.inf]), torch.ones(2, dtype=torch.bfloat16)]) == math.inf
    assert math.isnan(magnitude([torch.tensor([math.nan]), torch.tensor([math.inf])]))
    assert magnitude([]) == 0
    sound = {"box": torch.tensor(90.0), "obj": torch.tensor(0.0)}
    assert losses_are_sound([sound]) and losses_are_sound([{}])
    for wrong in (math.nan, math.inf, 2e6):
        assert not losses_are_sound([sound, {"box": torch.tensor(wrong)}])
