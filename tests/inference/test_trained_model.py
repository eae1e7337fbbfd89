from pathlib import Path

import pytest
import torch

from yolo_lightning.errors import InputError
from yolo_lightning.inference.trained_model import TorchModel, load_network
from yolo_lightning.model.network import build_network


@pytest.mark.parametrize("name", ["yolov5n", "yolov5nu"])
def test_a_file_of_weights_tells_its_architecture_and_gives_the_same_boxes(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, 3)
    for parameter in network.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.01)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    loaded, facts, architecture = load_network(tmp_path / "model.pt")
    assert (architecture, facts.stride, len(facts.class_names)) == (name, 32, 3)
    images = torch.rand(2, 3, 64, 96)
    boxes, scores = TorchModel(loaded, facts, torch.device("cpu"))(images)
    wanted = network.eval().head.decode(network(images))
    torch.testing.assert_close((boxes, scores), wanted, rtol=1e-4, atol=1e-4)


def test_weights_of_another_network_are_refused_with_the_option(tmp_path: Path) -> None:
    torch.save({"model.0.weight": torch.zeros(3)}, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"--model\.architecture FILE"):
        load_network(tmp_path / "model.pt")
