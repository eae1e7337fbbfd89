from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor
from torch._dynamo.utils import counters

from tests.support.run_comparison import assert_equal_runs, contents
from tests.support.small_network import write_small_yaml
from tests.support.stopped_runs import in_an_empty_folder, options, signal_at, stopped
from yolo_lightning import DetectionDataModule, YOLOv5
from yolo_lightning.__main__ import main
from yolo_lightning.errors import InputError
from yolo_lightning.model.network import DetectionNetwork, build_network
from yolo_lightning.training.ema import ExponentialMovingAverage
from yolo_lightning.training.freeze import FreezeOption, freeze_layers
from yolo_lightning.training.optimizer import OptimizerConfig

__all__ = ["in_an_empty_folder"]


def frozen(network: DetectionNetwork) -> set[str]:
    return {name for name, parameter in network.named_parameters() if not parameter.requires_grad}


def test_a_number_counts_layers_from_the_first_on_as_in_yolov5(tmp_path: Path) -> None:
    network = build_network(write_small_yaml(tmp_path, True), 2)
    norms = freeze_layers(network, 2)
    parts = ("conv.weight", "bn.weight", "bn.bias")
    assert frozen(network) == {f"model.{layer}.{part}" for layer in (0, 1) for part in parts}
    assert [id(norm) for norm in norms] == [id(network.model[0].bn), id(network.model[1].bn)]


def test_a_list_has_numbers_and_beginnings_of_names(tmp_path: Path) -> None:
    network = build_network(write_small_yaml(tmp_path, True), 2)
    norms = freeze_layers(network, [1, "model.9.m.0", "model.0.conv.weight"])
    assert frozen(network) == {
        *("model.1.conv.weight", "model.1.bn.weight", "model.1.bn.bias"),
        *("model.9.m.0.weight", "model.9.m.0.bias", "model.0.conv.weight"),
    }
    assert [id(norm) for norm in norms] == [id(network.model[1].bn)]  # that of layer 0 is trained


@pytest.mark.parametrize(
    ("freeze", "message"),
    [(-1, "is -1"), (10, "nothing is left"), (11, "no layer 10"), ([12], "no layer 12"),
     (["model.9.x"], "begins with 'model.9.x'"), (["model"], "nothing is left")],
)  # fmt: skip
def test_what_does_not_exist_is_refused_before_the_data_is_read(
    tmp_path: Path, freeze: FreezeOption, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        YOLOv5(write_small_yaml(tmp_path, True), freeze=freeze)


class Watch(Callback):
    """Notes what has a gradient before each optimizer step."""

    def __init__(self) -> None:
        self.with_gradient: set[str] = set()
        self.modes: set[tuple[bool, ...]] = set()

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
        found = module.network.named_parameters()
        self.with_gradient |= {name for name, parameter in found if parameter.grad is not None}
        self.modes.add(tuple(norm.training for norm in module.frozen_norms))


def test_a_frozen_run_compiles_once_and_changes_nothing_that_is_frozen(
    tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three epochs with validations: gradients absent, statistics and averages kept bit for bit."""
    from yolo_lightning.training.compilation import compiler_obstacle

    real: Callable[..., Any] = torch.compile
    monkeypatch.setattr(torch, "compile", partial(real, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()
    compiler_obstacle.cache_clear()
    config = OptimizerConfig(warmup_epochs=0, nominal_batch_size=4)
    module = YOLOv5(write_small_yaml(tmp_path, True), freeze=4, compile="default", optimizer=config)
    watch, average = Watch(), ExponentialMovingAverage(ramp_updates=2)
    before: dict[str, Tensor] = {}

    class Start(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
            before.update({n: v.clone() for n, v in pl_module.network.state_dict().items()})

    runner = Trainer(
        accelerator="cpu", devices=1, max_epochs=3, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        callbacks=[Start(), average, watch],
    )  # fmt: skip
    data = DetectionDataModule(root=str(shapes), image_size=64, batch_size=4, num_workers=0)
    with torch._dynamo.config.patch(error_on_recompile=True):
        runner.fit(module, data)
    assert counters["stats"]["unique_graphs"] == 2  # the probe and the losses
    layers = tuple(f"model.{layer}." for layer in range(4))
    names = [name for name, _ in module.network.named_parameters()]
    assert watch.with_gradient == {name for name in names if not name.startswith(layers)}
    assert watch.modes == {(False,) * 8}  # three convolutions, and the five of a C3
    assert sum(len(group["params"]) for group in runner.optimizers[0].param_groups) == len(
        watch.with_gradient
    )
    for after in (module.network.state_dict(), average._average):
        kept = {name for name, value in after.items() if torch.equal(value, before[name])}
        assert kept == {name for name in before if name.startswith(layers)} | {"model.9.anchors"}
    compiler_obstacle.cache_clear()


def test_a_frozen_run_resumes_exactly_and_with_the_same_layers_alone(
    tmp_path: Path, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--model.architecture", write_small_yaml(tmp_path, True), "--model.freeze=[0, model.2]"]
    main(["fit", *options(shapes, *more, "--run_name=whole")])
    stopped(*options(shapes, *more, "--run_name=parts", *signal_at("SIGTERM", 1, 2)))
    parts = Path("runs/parts/version_0")
    resume = ["fit", "--ckpt_path", str(parts / "checkpoints/last.ckpt"), "--trust_config"]
    with pytest.raises(SystemExit):
        main([*resume, "--model.freeze=0"])
    assert "model.freeze is 0, but [0, 'model.2'] in the run to resume" in capsys.readouterr().err
    main(resume)
    assert_equal_runs(Path("runs/whole/version_0"), parts)
    assert contents(parts)["hyper_parameters"]["freeze"] == [0, "model.2"]
