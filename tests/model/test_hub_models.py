"""The models of the classic code's hub folder, and what else its model files may say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from yolo_lightning.errors import InputError
from yolo_lightning.model.architecture import self_contained
from yolo_lightning.model.losses import LossConfigs
from yolo_lightning.model.network import build_network
from yolo_lightning.training.auto_anchor import look_for_anchors
from yolo_lightning.training.module import YOLOv5
from yolo_lightning.training.step import training_losses

P5 = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119], [116, 90, 156, 198, 373, 326]]
WIDTHS = {2: 128, 3: 256, 4: 512, 5: 768, 6: 1024, 7: 1280}  # of P2 to P7; P5 has 1024 if it is the last


def model(
    conv: str = "Conv", c3: str = "C3", last: str = "C3", levels: tuple[int, int] = (3, 5), deepest: int = 5
) -> dict[str, Any]:
    """A model of the hub: backbone to the deepest level, up to the finest, and down to the coarsest."""
    finest, coarsest = levels
    widths = WIDTHS | ({5: 1024} if deepest == 5 else {})
    repeats = {3: 6, 4: 9}
    backbone: list[Any] = [[-1, 1, "Conv", [64, 6, 2, 2]]]
    for level in range(2, deepest + 1):
        backbone.append([-1, 1, conv, [widths[level], 3, 2]])
        backbone.append([-1, repeats.get(level, 3), last if level == deepest else c3, [widths[level]]])
    backbone.append([-1, 1, "SPPF", [widths[deepest], 5]])
    head: list[Any] = []
    lateral: dict[int, int] = {}
    for level in range(deepest - 1, finest - 1, -1):
        lateral[level + 1] = len(backbone) + len(head)
        head += [
            [-1, 1, conv, [widths[level], 1, 1]],
            [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
            [[-1, 2 * level - 2], 1, "Concat", [1]],
            [-1, 1 if level == 2 else 3, c3, [widths[level], False]],
        ]
    read = [len(backbone) + len(head) - 1]
    for level in range(finest + 1, coarsest + 1):
        head.append([-1, 1, conv, [widths[level - 1], 3, 2]])
        head += [[[-1, lateral[level]], 1, "Concat", [1]], [-1, 3, c3, [widths[level], False]]]
        read.append(len(backbone) + len(head) - 1)
    head.append([read, 1, "Detect", ["nc", "anchors"]])
    scales = {"depth_multiple": 0.33, "width_multiple": 0.25}
    return {"nc": 80, **scales, "anchors": P5 if len(read) == 3 else 3, "backbone": backbone, "head": head}


def bifpn() -> dict[str, Any]:
    description = model()
    description["head"][9][0] = [-1, 14, 6]
    return description


def fpn() -> dict[str, Any]:
    up = [-1, 1, "nn.Upsample", ["None", 2, "nearest"]]
    head: list[Any] = [[-1, 3, "C3", [1024, False]]]
    for level, channels in ((6, 512), (4, 256)):
        head += [up, [[-1, level], 1, "Concat", [1]], [-1, 1, "Conv", [channels, 1, 1]]]
        head.append([-1, 3, "C3", [channels, False]])
    return {**model(), "head": [*head, [[18, 14, 10], 1, "Detect", ["nc", "anchors"]]]}


def bottlenecks() -> dict[str, Any]:
    """The layers of the hub's yolov3 and of the first releases: bottlenecks by themselves, and their CSP."""
    backbone = [[-1, 1, "Focus", [64, 3]], [-1, 1, "Conv", [128, 3, 2]], [-1, 4, "Bottleneck", [128]]]
    backbone += [[-1, 1, "Conv", [256, 3, 2]], [-1, 9, "BottleneckCSP", [256]]]
    backbone += [[-1, 1, "Conv", [512, 3, 2]], [-1, 1, "SPP", [512, [5, 9, 13]]]]
    head = [[-1, 1, "Bottleneck", [512, False, 2]], [-1, 1, "Conv", [1024, 3, 2]]]
    head += [[-1, 3, "BottleneckCSP", [1024, False]], [[4, 7, 9], 1, "Detect", ["nc", "anchors"]]]
    return {**model(), "backbone": backbone, "head": head}


# Parameters at 3 classes, depth 0.33 and width 0.25, counted in the package yolov5 7.0.14. With the weights
# of that package the maps of all these are equal to its maps, to the bit.
HUB: dict[str, tuple[dict[str, Any], int, tuple[int, ...]]] = {
    "bifpn": (bifpn(), 1_784_360, (8, 16, 32)),
    "fpn": (fpn(), 1_508_776, (8, 16, 32)),
    "p2": (model(levels=(2, 5)), 1_804_800, (4, 8, 16, 32)),
    "p34": (model(levels=(3, 4)), 1_317_648, (8, 16)),
    "p6": (model(levels=(3, 6), deepest=6), 3_098_176, (8, 16, 32, 64)),
    "p7": (model(levels=(3, 7), deepest=7), 5_957_784, (8, 16, 32, 64, 128)),
    "panet": (model(), 1_767_976, (8, 16, 32)),
    "LeakyReLU": ({**model(), "activation": "nn.LeakyReLU(0.1)"}, 1_767_976, (8, 16, 32)),
    "ghost": (model(conv="GhostConv", c3="C3Ghost", last="C3Ghost"), 945_036, (8, 16, 32)),
    "bottlenecks": (bottlenecks(), 850_952, (8, 16, 32)),
    "transformer": (model(last="C3TR"), 1_768_104, (8, 16, 32)),
}


def write(folder: Path, description: dict[str, Any]) -> str:
    path = folder / "model.yaml"
    path.write_text(yaml.safe_dump(description))
    return str(path)


@pytest.mark.parametrize("name", HUB)
def test_models_of_the_hub_are_built_and_train(name: str, tmp_path: Path) -> None:
    description, parameters, strides = HUB[name]
    network = build_network(write(tmp_path, description), 3)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network.strides == strides
    criterion = network.head.build_loss(LossConfigs())
    targets, mask = torch.zeros(16, 6), torch.arange(16) < 2
    targets[:2] = torch.tensor([[0, 1, 8, 8, 40, 50], [1, 1, 8, 8, 40, 50]])
    loss, _ = training_losses(network, criterion, torch.rand(2, 3, 128, 128), targets, mask)
    loss.backward()
    assert loss.isfinite()
    assert all(
        p.grad is not None and p.grad.isfinite().all() for p in network.parameters() if p.requires_grad
    )


@pytest.mark.parametrize("name", ["p34", "p2", "p7"])
def test_models_of_the_hub_take_rectangles(name: str, tmp_path: Path) -> None:
    """The layers of p34 go to stride 32, although its head reads 8 and 16."""
    network = build_network(write(tmp_path, HUB[name][0]), 3).eval()
    coarsest = network(torch.rand(1, 3, network.stride, 3 * network.stride))[-1]
    assert (
        coarsest.shape[2] * max(network.strides) == network.stride == {"p34": 32, "p2": 32, "p7": 128}[name]
    )


@pytest.mark.parametrize("name", ["ghost", "transformer", "p2"])
def test_models_of_the_hub_are_one_graph(name: str, tmp_path: Path) -> None:
    network = build_network(write(tmp_path, HUB[name][0]), 3).eval()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    images = torch.rand(1, 3, 128, 128)
    torch.testing.assert_close(compiled(images), network(images))


def test_an_activation_of_a_hub_model_is_everywhere(tmp_path: Path) -> None:
    network = build_network(write(tmp_path, HUB["LeakyReLU"][0]), 3)
    slopes = {m.negative_slope for m in network.modules() if isinstance(m, nn.LeakyReLU)}
    assert slopes == {0.1} and not any(isinstance(m, nn.SiLU) for m in network.modules())


def test_layers_count_from_the_first_or_from_behind(tmp_path: Path) -> None:
    counted, behind = model(), model()
    for number, row in enumerate(behind["head"], len(behind["backbone"])):
        if isinstance(row[0], list):
            row[0] = [source - number if source >= 0 else source for source in row[0]]
    assert behind["head"][2][0] == [-1, -6] and behind["head"][-1][0] == [-7, -4, -1]
    counted["backbone"][1][0], behind["backbone"][2][0] = 0, -1
    networks = []
    for description in (counted, behind):
        torch.manual_seed(0)
        networks.append(build_network(write(tmp_path, description), 3).eval())
    images = torch.rand(1, 3, 64, 64)
    for first, second in zip(networks[0](images), networks[1](images), strict=True):
        assert torch.equal(first, second)


def test_one_layer_counts_from_behind(tmp_path: Path) -> None:
    """Layer 2 reads layer 0, and so does layer 3."""
    rows = [[-1, 1, "Conv", [8, 3, 8]], [-1, 1, "Conv", [8, 3, 2]], [-2, 1, "Conv", [8, 3, 2]]]
    rows += [[-3, 1, "Conv", [8, 3, 2]], [[-1, -2, 1], 1, "Concat", [1]]]
    path = write(tmp_path, {"backbone": rows, "head": [[[-1], 1, "Detect", ["nc"]]]})
    assert [block.f for block in build_network(path, 2).model][:5] == [-1, -1, 0, 0, [-1, 2, 1]]
    assert '[0, 1, "Conv", [8, 3, 2]]' in self_contained(path)


@pytest.mark.parametrize("source", [-3, 2, 7, [0, -3]])
def test_a_layer_cannot_read_what_is_not_before_it(source: Any, tmp_path: Path) -> None:
    rows = [[-1, 1, "Conv", [8, 3, 8]], [-1, 1, "Conv", [8, 3, 2]], [source, 1, "Conv", [8, 3, 2]]]
    path = write(tmp_path, {"backbone": rows, "head": [[[2], 1, "Detect", ["nc"]]]})
    with pytest.raises(InputError, match=r"layer 2 reads layer (-3|2|7); a layer can read those before it"):
        build_network(path, 2)


@pytest.mark.parametrize(("multiple", "widths"), [(None, [16, 24]), (4, [12, 20]), (16, [16, 32])])
def test_channels_are_rounded_up_to_their_multiple(
    multiple: int | None, widths: list[int], tmp_path: Path
) -> None:
    """20 and 40 channels at half the width: 10 and 20."""
    rows = [[-1, 1, "Conv", [20, 3, 8]], [-1, 1, "Conv", [40, 3, 2]]]
    head = [[[0, 1], 1, "Detect", ["nc"]]]
    description = {"backbone": rows, "head": head, "width_multiple": 0.5, "channel_multiple": multiple}
    path = write(tmp_path, description)
    for architecture in (path, self_contained(path)):
        network = build_network(architecture, 2)
        assert [block.conv.out_channels for block in network.model[:2]] == widths
    assert build_network("yolov5n", 2).model[0].conv.out_channels == 16


def test_a_number_of_anchors_gives_squares_that_the_data_replace(tmp_path: Path) -> None:
    head: Any = build_network(write(tmp_path, HUB["p34"][0]), 3).head
    assert head.needs_anchors and head.anchors.shape == (2, 3, 2)
    expected = torch.tensor([4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3)])  # in strides
    torch.testing.assert_close(head.anchors, expected[:, None].expand(2, 3, 2))
    assert not build_network("yolov5n", 3).head.needs_anchors  # type: ignore[attr-defined]


@pytest.mark.parametrize("reads", [[17, 20, 23], [23, 20, 17]])
@pytest.mark.parametrize("anchors", [P5, P5[::-1], 3])
def test_anchors_grow_with_the_strides_in_any_order(reads: list[int], anchors: Any, tmp_path: Path) -> None:
    """As in the classic code, which calls this ``check_anchor_order``."""
    description = {**model(), "anchors": anchors}
    description["head"][-1][0] = reads
    head: Any = build_network(write(tmp_path, description), 3).head
    area = (head.anchors * torch.tensor(head.strides)[:, None, None]).prod(-1).mean(-1)  # (L,)
    assert area.argsort().tolist() == torch.tensor(head.strides).argsort().tolist()
    before_px = head.build_loss(LossConfigs()).anchors_px()
    sizes = np.geomspace([20, 1], [300, 15], 90).astype(np.float32)
    found, _ = look_for_anchors(before_px, sizes, 4.0, always=True)
    assert found is not None
    assert found.prod(-1).mean(-1).argsort().tolist() == area.argsort().tolist()


@pytest.mark.parametrize("anchors", [0, -3, True, "3", 2.5])
def test_what_is_no_number_of_anchors_is_refused(anchors: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="or the number of anchors a level"):
        build_network(write(tmp_path, {**model(), "anchors": anchors}), 3)


@pytest.mark.parametrize("kind", ["name", "YAML", "number"])
def test_the_anchors_of_a_yaml_hold_against_those_of_the_weights(kind: str, tmp_path: Path) -> None:
    source: Any = build_network("yolov5n", 80)
    source.head.anchors *= 3
    torch.save(source.state_dict(), tmp_path / "w.pt")
    anchors: Any = [[8, 8, 9, 9, 10, 10]] * 3 if kind == "YAML" else 3
    path = write(tmp_path, {**model(), "anchors": anchors})
    module = YOLOv5("yolov5n" if kind == "name" else path, 3, weights=str(tmp_path / "w.pt"))
    module.configure_model()
    head: Any = module.network.head
    assert torch.equal(module.network.model[0].conv.weight, source.model[0].conv.weight)
    assert torch.equal(head.anchors, source.head.anchors) == (kind == "name")
    if kind == "YAML":
        assert (head.anchors[1] * 16).tolist() == [[8, 8], [9, 9], [10, 10]]


def test_a_checkpoint_brings_its_own_anchors(tmp_path: Path) -> None:
    """It may have found them by auto-anchor."""
    path = write(tmp_path, HUB["panet"][0])
    module, resumed = YOLOv5(path, 3), YOLOv5(path, 3)
    module.configure_model()
    module.network.head.anchors *= 2  # type: ignore[attr-defined]
    resumed.configure_model()
    resumed.load_state_dict(module.state_dict())
    assert torch.equal(resumed.network.head.anchors, module.network.head.anchors)  # type: ignore[attr-defined]
