from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from yolo_lightning.errors import InputError
from yolo_lightning.model.network import DetectionNetwork, build_network
from yolo_lightning.monitoring.features import (
    capture,
    check_layers,
    describe_layer,
    feature_maps,
    head_layers,
)


def pictures(size: int = 64) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def hooks(network: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return sum(len(getattr(module, kind)) for module in network.modules() for kind in kinds)


@pytest.fixture
def network() -> DetectionNetwork:
    torch.manual_seed(0)
    return build_network("yolov5n", 3)


def test_the_outputs_are_those_of_the_layers(network: DetectionNetwork) -> None:
    raw, found = feature_maps(network, pictures(), [10, 0, 17, 9])
    assert list(found) == [10, 0, 17, 9]
    network.eval()
    with torch.no_grad():
        first: Any = network.model[0](pictures())
        backbone: Any = network.model[:10](pictures())  # each layer reads the one before
        assert torch.equal(found[0], first)
        assert torch.equal(found[9], backbone)
        assert torch.equal(found[10], network.model[10](backbone))
        expected = network.forward(pictures())
    assert found[17].shape == (2, 64, 8, 8)
    assert all(torch.equal(one, other) for one, other in zip(raw, expected, strict=True))


@pytest.mark.parametrize(
    ("architecture", "sources"), [("yolov5n", [17, 20, 23]), ("yolov5n6", [23, 26, 29, 32]),
    ("yolov5nu", [17, 20, 23])],
)  # fmt: skip
def test_the_layers_of_the_head_have_its_strides(architecture: str, sources: list[int]) -> None:
    network = build_network(architecture, 2)
    assert head_layers(network) == sources
    found = feature_maps(network, pictures(128), sources).layers
    assert [128 // found[number].shape[-1] for number in sources] == list(network.strides)


def test_nothing_of_the_network_changes(network: DetectionNetwork) -> None:
    network(pictures())[0].sum().backward()
    network.model[3].eval()  # as a frozen part of it may be
    state = {name: value.clone() for name, value in network.state_dict().items()}
    gradients = {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}
    modes, random = [module.training for module in network.modules()], torch.get_rng_state()
    feature_maps(network, pictures(), [17, 23])
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    after = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    assert after.keys() == gradients.keys()
    assert all(torch.equal(after[name], gradients[name]) for name in gradients)
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert hooks(network) == 0


def test_hooks_and_modes_are_as_before_when_the_pass_fails(network: DetectionNetwork) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    network.model[20].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        feature_maps(network, pictures(), [17, 23])
    assert hooks(network) == 1  # ours are gone
    assert all(module.training for module in network.modules())


def test_the_newest_pass_counts(network: DetectionNetwork) -> None:
    network.eval()
    with torch.no_grad(), capture(network, [23]) as found:
        assert found == {}
        network.forward(pictures(64))
        network.forward(pictures(128))
    assert found[23].shape[-1] == 4


def test_a_compiled_training_step_is_not_compiled_again(network: DetectionNetwork) -> None:
    def loss(run: Callable[..., Any], images: Tensor) -> Tensor:
        return torch.stack([one.square().mean() for one in run(images)]).sum()

    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="eager", fullgraph=True, dynamic=False)
    compiled(network, pictures()).backward()
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    feature_maps(network, pictures(96), [17, 20, 23])
    compiled(network, pictures()).backward()
    assert counters["stats"]["unique_graphs"] == graphs
    torch._dynamo.reset()


def test_wrong_layers_are_refused_with_those_that_exist(network: DetectionNetwork) -> None:
    assert check_layers(network, [17, 10, 17]) == [17, 10]
    assert describe_layer(network, 17) == "17 C3"
    for wrong in (24, 99, -1):  # 24 is the head
        with pytest.raises(InputError, match=rf"--layers: there is no layer {wrong} .* 0 Conv, .*, 23 C3$"):
            check_layers(network, [17, wrong], "--layers")
    with pytest.raises(InputError, match="no layer is named"):
        check_layers(network, [])
    assert hooks(network) == 0
