import argparse
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from tests.support.processes import side_by_side
from yolo_lightning.distributed.ddp import (
    ConfiguredDDP,
    DDPConfig,
    build_strategy,
    count_devices,
    listed_gpus,
    refuse_absent_gpus,
)
from yolo_lightning.errors import InputError


def build(strategy: Any = "auto", **options: Any) -> Any:
    defaults = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "sync_batchnorm": False}
    config = options.pop("config", DDPConfig())
    return build_strategy(Namespace(strategy=strategy, **{**defaults, **options}), config)


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.fixture(autouse=True)
def without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("devices", "count"),
    [("auto", 4), (-1, 4), ("-1", 4), (2, 2), ("3", 3), ([0, 2], 2), ("0,1,3", 3), ("1,", 1)],
)
def test_devices_are_counted_however_they_are_given(devices: Any, count: int) -> None:
    assert count_devices(devices, 4) == count


@pytest.mark.parametrize(
    ("devices", "gpus"),
    [("2,3", [2, 3]), ([2, 3], [2, 3]), ("1,", [1]), ("2", None), (2, None), ("auto", None)],
)
def test_gpus_are_listed_as_text_or_as_numbers(devices: Any, gpus: list[int] | None) -> None:
    assert listed_gpus(devices) == gpus


def test_one_process_needs_no_strategy() -> None:
    assert build("auto") == "auto"
    assert build("auto", devices="auto") == "auto"


@pytest.mark.parametrize("options", [{"devices": 2}, {"num_nodes": 2}])
def test_auto_is_ddp_for_several_processes(options: dict[str, Any]) -> None:
    assert isinstance(build("auto", **options), ConfiguredDDP)


@pytest.mark.parametrize("given", ["ddp_spawn", "fsdp", DDPStrategy()])
def test_another_strategy_passes_untouched(given: Any) -> None:
    assert build(given, devices=2) is given


def test_the_options_reach_ddp() -> None:
    config = DDPConfig(bucket_mb=7, timeout_minutes=3, compress_gradients=True)
    strategy = build("ddp", config=config)
    assert strategy.process_group_backend == "gloo"
    assert strategy._timeout == timedelta(minutes=3)
    assert strategy._ddp_kwargs == {
        "find_unused_parameters": False,
        "gradient_as_bucket_view": True,
        "static_graph": False,
        "bucket_cap_mb": 7,
    }


def test_gpus_are_joined_by_nccl(four_gpus: None) -> None:
    for accelerator in ("auto", "gpu", "cuda"):
        strategy = build("auto", accelerator=accelerator, devices="auto", sync_batchnorm=True)
        assert strategy.process_group_backend == "nccl"
    assert build("auto", accelerator="cpu", devices=2).process_group_backend == "gloo"


@pytest.mark.parametrize("devices", [5, "8", [0, 4], "0,7"])
def test_more_gpus_than_there_are_are_refused(four_gpus: None, devices: Any) -> None:
    with pytest.raises(InputError, match=r"trainer\.devices .* shows 4"):
        refuse_absent_gpus("gpu", devices)


def test_as_many_gpus_as_there_are_are_not_refused(four_gpus: None) -> None:
    for devices in (4, [3, 0]):
        refuse_absent_gpus("gpu", devices)
        assert isinstance(build("auto", accelerator="gpu", devices=devices), ConfiguredDDP)
    refuse_absent_gpus("cpu", 8)


def test_synchronised_batch_norms_on_a_cpu_are_refused() -> None:
    with pytest.raises(InputError, match=r"sync_batchnorm is true.*need GPUs"):
        build("ddp", devices=2, sync_batchnorm=True)


def test_torch_has_no_synchronised_batch_norm_for_a_cpu(tmp_path: Path) -> None:
    """What the refusal rests on: when torch learns it, the refusal can go."""
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="expected input tensor to be on GPU"):
            torch.nn.SyncBatchNorm(3)(torch.rand(2, 3, 4, 4))
    finally:
        torch.distributed.destroy_process_group()


def test_processes_of_torchrun_do_not_train_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(InputError, match=r"give --trainer\.devices 4 and --trainer\.num_nodes 2"):
        build("auto")
    assert isinstance(build("auto", devices=4, num_nodes=2), ConfiguredDDP)


@pytest.mark.parametrize("options", [{"bucket_mb": 0}, {"timeout_minutes": -1}, {"bucket_mb": float("nan")}])
def test_values_out_of_range_are_refused(options: dict[str, float]) -> None:
    [name] = options
    with pytest.raises(InputError, match=f"ddp.{name}"):
        DDPConfig(**options)


def test_the_command_line_offers_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(DDPConfig, "ddp")
    config = parser.instantiate(parser.parse_args(["--ddp.compress_gradients=true"]))
    assert config.ddp == DDPConfig(compress_gradients=True)
    with pytest.raises(argparse.ArgumentError):
        parser.parse_args(["--ddp.bucket_mb=large"])
    assert "Send gradients as bfloat16" in " ".join(parser.format_help().split())


def _exchange(rank: int, folder: str, compress: bool, found: Any) -> None:
    torch.set_num_threads(1)
    strategy = ConfiguredDDP(DDPConfig(compress_gradients=compress), "gloo")
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    strategy.parallel_devices = [torch.device("cpu")]
    model = torch.nn.Linear(1, 1, bias=False)
    wrapped = DistributedDataParallel(model, **strategy._ddp_kwargs)
    strategy._setup_model = lambda _: wrapped  # type: ignore[method-assign, assignment]
    strategy._model = LightningModule()
    strategy.configure_ddp()
    # 1 + 2 ** -10 has 11 significant bits; bfloat16 keeps 8.
    wrapped(torch.tensor([[1 + 2**-10 + rank]])).sum().backward()
    gradient = model.weight.grad
    assert gradient is not None and gradient.dtype == torch.float32
    if rank == 0:
        found["gradient"] = gradient.item()
        found["is a view"] = gradient._is_view()
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("compress", "expected"), [(False, 1.5 + 2**-10), (True, 1.5)])
def test_gradients_are_compressed_on_request_also_on_a_cpu(
    tmp_path: Path, compress: bool, expected: float
) -> None:
    with torch.multiprocessing.Manager() as manager:
        found = manager.dict()
        side_by_side(_exchange, 2, str(tmp_path), compress, found)
        assert dict(found) == {"gradient": expected, "is a view": True}
