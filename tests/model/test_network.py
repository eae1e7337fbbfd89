import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from yolo_lightning.errors import InputError
from yolo_lightning.model.blocks import MODEL_FILES
from yolo_lightning.model.network import build_network, with_fused_norms

# Trainable parameters at 80 classes, as ultralytics/yolov5 publishes them.
OFFICIAL_PARAMETERS = {
    "yolov5n": 1_872_157,
    "yolov5s": 7_235_389,
    "yolov5m": 21_190_557,
    "yolov5l": 46_563_709,
    "yolov5x": 86_749_405,
    "yolov5s6": 12_626_620,
    "yolov5m6": 35_731_932,
    "yolov5l6": 76_770_172,
    "yolov5x6": 140_794_780,
}


@pytest.mark.parametrize("architecture", OFFICIAL_PARAMETERS)
def test_parameter_counts_are_the_official_ones(architecture: str) -> None:
    network = build_network(architecture, 80)
    assert sum(p.numel() for p in network.parameters()) == OFFICIAL_PARAMETERS[architecture]


@pytest.mark.parametrize("architecture", ["yolov5n", "yolov5n6", "yolov5nu"])
def test_parameters_are_counted_without_memory(architecture: str) -> None:
    """As the processes of a run do that were started side by side."""
    with torch.device("meta"):
        counted = build_network(architecture, 3)
    assert all(parameter.is_meta for parameter in counted.parameters())
    sizes = [value.shape for value in build_network(architecture, 3).parameters()]
    assert [value.shape for value in counted.parameters()] == sizes


def test_anchor_maps_have_one_row_of_five_plus_classes_for_each_anchor_of_each_cell() -> None:
    network = build_network("yolov5n", 3)
    maps = network(torch.rand(2, 3, 64, 128))
    assert [tuple(m.shape) for m in maps] == [(2, 3, 8, 16, 8), (2, 3, 4, 8, 8), (2, 3, 2, 4, 8)]
    assert network.strides == (8, 16, 32)


def test_p6_has_four_levels() -> None:
    network = build_network("yolov5n6", 3)
    assert network.strides == (8, 16, 32, 64)
    assert [m.shape[2] for m in network(torch.rand(1, 3, 128, 128))] == [16, 8, 4, 2]


def test_anchor_free_maps_hold_bins_and_classes() -> None:
    network = build_network("yolov5nu", 3)
    shapes = [tuple(m.shape) for m in network(torch.rand(2, 3, 64, 64))]
    assert shapes == [(2, 4 * 16 + 3, 8, 8), (2, 67, 4, 4), (2, 67, 2, 2)]


def test_maps_are_the_same_in_evaluation_mode() -> None:
    network = build_network("yolov5n", 2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0  # running statistics stay 0 and 1
    images = torch.rand(1, 3, 64, 64)
    assert [m.shape for m in network.train()(images)] == [m.shape for m in network.eval()(images)]


def test_details_of_the_classic_code() -> None:
    network = build_network("yolov5n", 80)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.03)}
    assert isinstance(network.model[9].cv1.act, nn.SiLU)  # SPPF; recent ultralytics would leave it out
    assert all(m.training for m in network.modules())
    assert all(torch.equal(m.running_mean, torch.zeros_like(m.running_mean)) for m in norms)


def test_head_starts_from_likely_objectness() -> None:
    head: Any = build_network("yolov5n", 80).head
    for level, stride in enumerate((8, 16, 32)):
        bias = head.m[level].bias.detach().view(3, 85)
        spread = 1 / head.m[level].in_channels ** 0.5  # of torch's own initial bias, which is random
        spread += 1e-5  # for one at the end of it: the sum with the logarithm is rounded
        expected_objectness = torch.tensor(8 / (640 / stride) ** 2).log()
        assert (bias[:, 4] - expected_objectness).abs().max() <= spread
        assert (bias[:, 5:] - torch.tensor(0.6 / 79.00001).log()).abs().max() <= spread


def test_anchors_are_stored_in_strides() -> None:
    head: Any = build_network("yolov5n", 80).head
    assert head.anchors[0, 0].tolist() == [10 / 8, 13 / 8]
    assert head.anchors[2, 2].tolist() == [373 / 32, 326 / 32]


def test_moves_to_channels_last() -> None:
    network = build_network("yolov5n", 2).to(memory_format=torch.channels_last)
    assert network.model[0].conv.weight.is_contiguous(memory_format=torch.channels_last)


def classic_yaml(tmp_path: Path, **changes: object) -> Path:
    """A model file as ultralytics/yolov5 ships them: multiples at the top, anchors in the last row."""
    description = yaml.safe_load((MODEL_FILES / "yolov5.yaml").read_text())
    del description["scales"]
    description |= {"depth_multiple": 0.33, "width_multiple": 0.25}
    description["anchors"] = [
        [10, 13, 16, 30, 33, 23],
        [30, 61, 62, 45, 59, 119],
        [116, 90, 156, 198, 373, 326],
    ]
    description["head"][-1] = [[17, 20, 23], 1, "Detect", ["nc", "anchors"]]
    path = tmp_path / "custom.yaml"
    path.write_text(yaml.safe_dump({**description, **changes}))
    return path


def test_yaml_with_anchors_is_the_classic_model(tmp_path: Path) -> None:
    network = build_network(str(classic_yaml(tmp_path)), 80)
    assert sum(p.numel() for p in network.parameters()) == OFFICIAL_PARAMETERS["yolov5n"]
    assert network.state_dict().keys() == build_network("yolov5n", 80).state_dict().keys()


def test_yaml_without_anchors_is_anchor_free(tmp_path: Path) -> None:
    network = build_network(str(classic_yaml(tmp_path, anchors=None)), 5)
    assert network.state_dict().keys() == build_network("yolov5nu", 5).state_dict().keys()


def test_activation_of_a_yaml_stays_in_its_network(tmp_path: Path) -> None:
    network = build_network(str(classic_yaml(tmp_path, activation="nn.ReLU()")), 5)
    assert isinstance(network.model[0].act, nn.ReLU)
    assert isinstance(build_network("yolov5n", 5).model[0].act, nn.SiLU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": None}, "no list 'backbone'"),
        ({"head": [[-1, 1, "Conv", [64, 1, 1]]]}, "must be a Detect"),
        ({"anchors": [[10, 13, 16]]}, "one row of widths and heights"),
        ({"anchors": [[10, 13], [30, 61]]}, "2 levels but Detect reads 3"),
        ({"backbone": [[-1, 1, "Conv", [64, 3]], [7, 1, "Conv", [64]]]}, "layer 1 reads layer 7"),
        ({"backbone": [[-1, 1, "Concat", [1]]] * 10}, "cannot be built"),
    ],
)
def test_wrong_yaml_is_refused_by_name(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = classic_yaml(tmp_path, **changes)
    with pytest.raises(InputError) as error:
        build_network(str(path), 2)
    assert message in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["yolov5", "yolov5z", "yolov8n", "missing.yaml"])
def test_unknown_architecture_names_the_known_ones(name: str) -> None:
    with pytest.raises(InputError, match=r"yolov5n\|s\|m\|l\|x"):
        build_network(name, 2)


def test_importing_ultralytics_leaves_the_process_alone() -> None:
    code = (
        "import os, cv2, torch; from PIL import Image; "
        "before = [cv2.imread, cv2.imwrite, Image.open, torch.save]; "
        "import yolo_lightning.model.blocks; "
        "assert before == [cv2.imread, cv2.imwrite, Image.open, torch.save]; "
        "assert 'OMP_NUM_THREADS' not in os.environ"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize("architecture", ["yolov5n", "yolov5nu"])
def test_a_network_with_fused_norms_gives_the_same_maps(architecture: str) -> None:
    network = build_network(architecture, 3).train()
    images = torch.rand(2, 3, 64, 64)
    network(images * 3)  # statistics that are not those of a new network
    fused = with_fused_norms(network)
    wanted = network.eval()(images)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    for found, expected in zip(fused(images), wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
