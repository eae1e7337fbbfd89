from __future__ import annotations

import mmap
import multiprocessing
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from tests.support.stall_run import Run, Tiny
from yolo_lightning.performance.bottleneck import Recompilation
from yolo_lightning.performance.stalls import RecompilationReader, StallMonitor, peak_memory_mb


def test_first_batch_of_the_run_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.epoch()
    run.batch(wait_s=5, step_s=60, images=4)  # starts workers and compiles
    run.batch(wait_s=1, step_s=3, images=4)
    run.batch(wait_s=3, step_s=1, images=8)
    values = run.end()
    assert values["perf/images_per_second"] == pytest.approx(12 / 8)
    assert values["perf/data_wait_fraction"] == pytest.approx(4 / 8)
    assert values["perf/step_ms"] == pytest.approx(2000)


def test_first_batch_of_a_later_epoch_counts_with_its_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.epoch()
    run.batch(wait_s=0, step_s=50, images=4)
    run.epoch()
    run.batch(wait_s=6, step_s=2, images=4)
    values = run.end()
    assert values["perf/images_per_second"] == pytest.approx(4 / 8)
    assert values["perf/data_wait_fraction"] == pytest.approx(6 / 8)


def test_a_single_batch_is_measured_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.epoch()
    assert run.monitor.images_per_second == 0
    assert run.monitor.data_wait_fraction == 0
    assert run.monitor.step_ms == 0
    run.batch(wait_s=1, step_s=3, images=8)
    assert run.end()["perf/images_per_second"] == pytest.approx(2)


def test_validation_within_an_epoch_is_not_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.epoch()
    run.batch(0, 1, 4)
    run.batch(1, 1, 4)
    run.monitor.on_validation_start(run.trainer, run.module)
    run.clock.now += 1000
    run.batch(1, 1, 4)
    run.batch(1, 1, 4)
    values = run.end()
    assert values["perf/data_wait_fraction"] == pytest.approx(2 / 5)  # 1 + 0 + 1 of 2 + 1 + 2 seconds
    assert values["perf/images_per_second"] == pytest.approx(12 / 5)


def test_images_of_all_processes_count(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, world_size=4)
    run.epoch()
    run.batch(0, 9, 4)
    run.batch(0, 2, 4)
    assert run.monitor.images_per_second == pytest.approx(8)


def test_a_second_run_warms_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.epoch()
    run.batch(0, 1, 4)
    run.monitor.on_train_start(run.trainer, run.module)
    run.epoch()
    run.batch(0, 100, 4)
    run.batch(0, 2, 4)
    assert run.end()["perf/step_ms"] == pytest.approx(2000)


def test_a_run_that_resumes_within_an_epoch_adds_to_what_was_measured_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = Run(monkeypatch)
    first.epoch()
    first.batch(0, 100, 4)
    first.batch(wait_s=1, step_s=3, images=8)
    measured = first.monitor.state_dict()

    run = Run(monkeypatch)
    run.trainer.fit_loop.restarted_mid_epoch = True
    run.monitor.load_state_dict(measured)
    run.monitor.on_train_start(run.trainer, run.module)
    assert run.monitor.images_per_second == pytest.approx(8 / 4)  # also if only the validation was left
    run.batch(0, 100, 4)
    run.batch(wait_s=1, step_s=5, images=8)
    assert run.end()["perf/images_per_second"] == pytest.approx(16 / 10)
    run.epoch()
    run.batch(wait_s=1, step_s=1, images=8)
    assert run.end()["perf/images_per_second"] == pytest.approx(8 / 2)


def test_a_trainer_logs_it(tmp_path: Any) -> None:
    trainer = Trainer(
        default_root_dir=tmp_path, max_epochs=2, accelerator="cpu", devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[StallMonitor()],
    )  # fmt: skip
    trainer.fit(Tiny())
    metrics = trainer.callback_metrics
    assert metrics["perf/images_per_second"] > 0
    assert 0 <= metrics["perf/data_wait_fraction"] <= 1
    assert metrics["perf/step_ms"] > 0
    assert metrics["perf/memory_peak_mb"] > 50  # an interpreter with torch in it
    assert metrics["perf/recompiles"] == 0
    assert "perf/device_idle_fraction" not in metrics  # a CPU has no clock of its own


def test_loads_of_all_processes_are_averaged_and_peaks_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.whole_epoch(wait_s=0)
    options = run.module.options
    assert options["perf/step_ms"] == {"sync_dist": True}
    assert options["perf/memory_peak_mb"] == {"sync_dist": True, "reduce_fx": "max"}
    assert options["perf/recompiles"] == {"sync_dist": True, "reduce_fx": "max"}


def test_recompilations_are_counted_from_the_second_epoch_on(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    again = [Recompilation("core", "tensor 'x' size mismatch", 6.0)]
    monkeypatch.setattr(RecompilationReader, "read", lambda self: again)
    counts = []
    for _ in range(3):
        run.whole_epoch(wait_s=0)
        counts.append(run.module.values["perf/recompiles"])
    assert counts == [0, 1, 1]
    run.epoch()
    assert ["'core' was compiled" in line for line in run.module.printed] == [True]


def _allocate() -> None:
    before = peak_memory_mb(torch.device("cpu"))
    # New pages from the system: the allocator may still hold freed ones. Pages that are written are resident.
    with mmap.mmap(-1, 100_000_000) as block:
        block.write(bytes(len(block)))
        assert peak_memory_mb(torch.device("cpu")) >= before + 90


def test_peak_memory_of_a_process_follows_its_allocations() -> None:
    """In a forked process, whose peak begins at what it holds: the peak of this one may be far above that."""
    process = multiprocessing.get_context("fork").Process(target=_allocate)
    process.start()
    process.join()
    assert process.exitcode == 0
