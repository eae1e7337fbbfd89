from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from tests.support.fake_nvml import HEAT, FakeNvml, State
from tests.support.processes import free_port, side_by_side
from tests.support.stall_run import Tiny
from yolo_lightning.monitoring.gpu_health import callback, sampler
from yolo_lightning.monitoring.gpu_health.callback import GpuHealth

WELL = State()
SLOW = State(sm_clock=990, reasons=HEAT)
PATIENCE_S = 200


def install(fake: FakeNvml, patch: pytest.MonkeyPatch) -> None:
    """Say that the CPU is the GPU of the fake. On a busy machine a thread may take long to end."""
    fake.install(patch)
    patch.setattr(callback, "is_nvidia", lambda device: True)
    patch.setattr(sampler, "_END_S", PATIENCE_S)


class Watched(Tiny):
    """Its last batch ends when the recording has been played."""

    def __init__(self, fake: FakeNvml, fail: type[BaseException] | None = None) -> None:
        super().__init__()
        self.fake = fake
        self.fail = fail
        self.steps = 0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.steps += 1
        if batch_idx == 2:
            assert self.fake.played.wait(PATIENCE_S)
            if self.fail:
                raise self.fail("on purpose")
        return super().training_step(batch, batch_idx)


def fit(fake: FakeNvml, folder: Path, fail: type[BaseException] | None = None, epochs: int = 2) -> Trainer:
    """Train on a CPU that is said to be the GPU of the fake."""
    trainer = Trainer(
        default_root_dir=folder, max_epochs=epochs, accelerator="cpu", devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[GpuHealth(folder)],
    )  # fmt: skip
    module = Watched(fake, fail)
    with pytest.MonkeyPatch.context() as patch:
        install(fake, patch)
        trainer.fit(module)
    assert module.steps == 3 * epochs
    return trainer


def is_over(fake: FakeNvml) -> bool:
    """Whether no thread lives on, and NVML has back what it gave."""
    alive = [thread.name for thread in threading.enumerate() if thread.name == "gpu-health"]
    return not alive and (fake.users, fake.sets) == (0, 0)


FAULTS = {
    "throttling": ([WELL, *[SLOW] * 15], "clocks are lowered by heat: 990 MHz instead of 1980 MHz"),
    "near the limit": ([WELL, *[State(temperature=85)] * 10], "85 °C hot, 2 degrees below the 87 °C"),
    "lost": ([WELL, WELL, State(errors={"*": "GpuIsLost"})], "lost (NVML: GPU is lost)"),
    "permission": (
        [State(errors={"nvmlDeviceGetPowerUsage": "NoPermission"})] * 5,
        "permission denied for power: not watched",
    ),
    "xid": ([WELL, State(xids=(43,)), WELL], "the driver reports Xid 43"),
    "ecc": ([WELL] * 3 + [State(ecc=(0, 1))] * 8, "uncorrected ECC errors in this run: 1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_training_goes_on(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording, text = FAULTS[fault]
    fake = FakeNvml(recording)
    fit(fake, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    told = [line for line in lines if line.startswith("GPU 3 (NVIDIA Test): ")]
    assert [text in line for line in told] == [True]
    [device] = json.loads((tmp_path / "gpu_health.json").read_text())["devices"]
    assert device["faults"] == told
    assert is_over(fake)


def test_scalars_are_logged_and_a_table_ends_the_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeNvml([WELL] * 20)
    metrics = fit(fake, tmp_path, epochs=1).callback_metrics
    logged = {name: float(value) for name, value in metrics.items() if name.startswith("gpu/")}
    assert logged == pytest.approx({
        "gpu/utilisation": 0.95, "gpu/memory_used_mb": 40_000, "gpu/temperature_c": 60, "gpu/power_w": 500,
        "gpu/sm_clock_mhz": 1980, "gpu/memory_clock_mhz": 2619, "gpu/pcie_rx_mb_s": 1000,
        "gpu/pcie_tx_mb_s": 3000, "gpu/throttled_fraction": 0, "gpu/throttle_lost_s": 0,
    })  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    row = next(i for i, line in enumerate(lines) if line.startswith("GPU health")) + 2
    assert lines[row].split()[:4] == ["GPU", "3", "NVIDIA", "Test"]
    assert "95 (95)" in lines[row]
    content = json.loads((tmp_path / "gpu_health.json").read_text())
    [device] = content["devices"]
    assert (device["rank"], device["name"], device["power_w"]["mean"]) == (0, "NVIDIA Test", 500)
    assert "null" not in (tmp_path / "gpu_health.json").read_text()


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_the_thread_ends_with_a_fit_that_fails(
    error: type[BaseException], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeNvml([WELL, WELL, State(xids=(31,))])  # the step that fails is under way by then
    with pytest.raises(error):
        fit(fake, tmp_path, fail=error)
    assert is_over(fake)
    output = capsys.readouterr().out
    assert output.count("Xid 31") == 1
    assert ("GPU health: mean" in output) == (error is SystemExit)  # which stops a run from outside
    assert (tmp_path / "gpu_health.json").exists()


@pytest.mark.parametrize(
    ("fake", "text"),
    [
        (FakeNvml(init="DriverNotLoaded"), "GPU health: not watched: the NVIDIA driver is not loaded"),
        (FakeNvml(init="LibraryNotFound"), "GPU health: not watched: libnvidia-ml.so.1 is missing"),
    ],
)
def test_without_nvml_there_is_one_line(
    fake: FakeNvml, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.played.set()
    metrics = fit(fake, tmp_path).callback_metrics
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count("GPU health") == 1
    assert text in captured.out
    [device] = json.loads((tmp_path / "gpu_health.json").read_text())["devices"]
    assert [line.startswith(text) for line in device["faults"]] == [True]
    assert not [name for name in metrics if name.startswith("gpu/")]
    assert is_over(fake)


def test_a_cpu_is_one_line_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    health = GpuHealth(tmp_path)
    trainer = Trainer(
        default_root_dir=tmp_path, max_epochs=2, accelerator="cpu", devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[health],
    )  # fmt: skip
    trainer.fit(Tiny())
    lines = [line for line in capsys.readouterr().out.splitlines() if "GPU health" in line]
    assert lines == ["GPU health: no NVIDIA GPU in use, nothing to watch"]
    assert not [name for name in trainer.callback_metrics if name.startswith("gpu/")]
    assert not (tmp_path / "gpu_health.json").exists()
    assert "gpu-health" not in {thread.name for thread in threading.enumerate()}


def test_a_file_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "gpu_health.json").mkdir()  # nothing can be moved onto a folder
    fake = FakeNvml([WELL] * 3)
    with pytest.warns(UserWarning, match=r"gpu_health\.json could not be written"):
        fit(fake, tmp_path, epochs=1)


def _work(rank: int, port: int, folder: str) -> None:
    """A rank of a run that torchrun has started; the GPU of rank 1 is hot."""
    import os

    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank),
        "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "1",
    }  # fmt: skip
    unread = {"nvmlDeviceGetTotalEccErrors": "NotSupported"}
    fake = FakeNvml([State(temperature=60 + 25 * rank, power_mw=100_000 * (rank + 1), errors=unread)] * 5)
    trainer = Trainer(
        default_root_dir=folder, max_epochs=1, accelerator="cpu", devices=2, strategy="ddp", logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[GpuHealth(folder)], use_distributed_sampler=False,
    )  # fmt: skip
    install(fake, pytest.MonkeyPatch())  # this process ends with it
    output = Path(folder) / f"{rank}.txt"
    with output.open("w") as stream, contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        trainer.fit(Watched(fake))
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    (Path(folder) / f"{rank}.json").write_text(json.dumps(metrics))
    torch.distributed.destroy_process_group()


def test_ranks_are_put_together(tmp_path: Path) -> None:
    import socket

    side_by_side(_work, 2, free_port(), str(tmp_path))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first.keys() == second.keys()
    assert (first["gpu/temperature_c"], first["gpu/power_w"]) == (85, 150)
    assert (first["gpu/0/temperature_c"], first["gpu/1/temperature_c"]) == (60, 85)
    devices = json.loads((tmp_path / "gpu_health.json").read_text())["devices"]
    assert [(device["rank"], device["temperature_c"]["max"]) for device in devices] == [(0, 60), (1, 85)]
    texts = [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)]
    assert [text.count("85 °C hot") for text in texts] == [0, 1]
    assert f"(NVIDIA Test), rank 1 on {socket.gethostname()}: 85 °C hot" in texts[1]
    assert [text.count("cannot read ECC errors") for text in texts] == [1, 0]
    assert [text.count("GPU health: mean") for text in texts] == [1, 0]
    assert "It is recommended to use" not in texts[0] + texts[1]
