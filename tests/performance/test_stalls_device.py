from __future__ import annotations

import math
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support.stall_run import DeviceRun, Logged
from yolo_lightning.performance.stalls import StallMonitor


def test_a_wait_that_the_device_has_work_for_is_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    run = DeviceRun(monkeypatch)
    run.epoch()
    for _ in range(6):
        run.launch(wait_s=5, host_s=1, device_s=10)
    run.validate(50)
    values = run.end()
    assert values["perf/data_wait_fraction"] == pytest.approx(5 / 6)
    assert values["perf/device_idle_fraction"] == pytest.approx(0)
    run.epoch()
    assert run.module.printed == []


def test_the_device_s_own_idle_time_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    run = DeviceRun(monkeypatch)
    run.epoch()
    run.launch(wait_s=100, host_s=60, device_s=60)  # the first of the run: left out
    for _ in range(4):
        run.launch(wait_s=8, host_s=1, device_s=6)  # done 3 s before the next starts
    run.validate(50)
    values = run.end()
    # Behind the first batch the device has nothing left to do: 8 s, then three times 3 s.
    assert values["perf/device_idle_fraction"] == pytest.approx((8 + 3 * 3) / (8 + 3 * 3 + 4 * 6))
    run.epoch()
    assert "41 % of this epoch was lost waiting for images" in run.module.printed[0]


def test_validation_is_no_idle_time_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    run = DeviceRun(monkeypatch)
    run.epoch()
    for _ in range(3):
        run.launch(wait_s=0, host_s=1, device_s=10)
    run.validate(500)
    for _ in range(3):
        run.launch(wait_s=0, host_s=1, device_s=10)
    run.validate(500)
    assert run.end()["perf/device_idle_fraction"] == 0
    run.epoch()  # the wait for the first batch of an epoch counts
    run.launch(wait_s=10, host_s=1, device_s=10)
    run.launch(wait_s=0, host_s=1, device_s=10)
    run.validate(500)
    assert run.end()["perf/device_idle_fraction"] == pytest.approx(10 / 30)


def test_an_unread_device_gives_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    run = DeviceRun(monkeypatch)
    run.epoch()
    run.launch(wait_s=1, host_s=1, device_s=1)
    assert math.isnan(run.end()["perf/device_idle_fraction"])  # logged all the same, as by every process
    run.epoch()
    assert run.module.printed == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_tells_its_idle_time_and_is_never_waited_for() -> None:
    device = torch.device("cuda")
    monitor, module = StallMonitor(), Logged()
    module.device = device
    loop = SimpleNamespace(restarted_mid_epoch=False)
    trainer: Any = SimpleNamespace(world_size=1, current_epoch=0, datamodule=None, fit_loop=loop)
    batch: Any = SimpleNamespace(images=torch.zeros(4, 3, 2, 2))
    matrix = torch.randn(4096, 4096, device=device)
    torch.cuda.synchronize()
    monitor.on_train_start(trainer, module)  # type: ignore[arg-type]
    monitor.on_train_epoch_start(trainer, module)  # type: ignore[arg-type]
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(21):
            time.sleep(0.02)
            monitor.on_train_batch_start(trainer, module, batch, step)  # type: ignore[arg-type]
            matrix @ matrix
            monitor.on_train_batch_end(trainer, module, None, batch, step)  # type: ignore[arg-type]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    monitor.on_train_epoch_end(trainer, module)  # type: ignore[arg-type]
    # One product takes some milliseconds at most, and the host sleeps for 20.
    assert 0.1 < module.values["perf/device_idle_fraction"] < 1
    assert module.values["perf/memory_peak_mb"] >= 2 * 4096**2 * 4 / 1e6  # the matrix and a product
