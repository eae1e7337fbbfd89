"""Two processes that are stopped through one of them save together and go on as if they had not been."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import run
from tests.support.run_comparison import assert_equal_runs, contents

ROOT = Path(__file__).parents[2]
BATCHES = 5


def options(shapes: Path, runs: Path, *more: str) -> list[str]:
    """Three epochs on two processes, one picture a batch in each."""
    return [
        "fit", "--data.root", str(shapes), "--data.image_size=64", "--data.batch_size=1",
        "--data.num_workers=0", "--model.compile=false", "--model.channels_last=true",
        "--trainer.precision=32-true", "--model.optimizer.nominal_batch_size=4",
        "--model.optimizer.warmup_epochs=0", "--trainer.max_epochs=3",
        "--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", f"--runs_dir={runs}",
        *more,
    ]  # fmt: skip


def fit_by_lightning(arguments: list[str]) -> tuple[list[int | None], str]:
    """Exit status and output of a run on two processes, of which Lightning starts the second."""
    command = [sys.executable, "-m", "yolo_lightning", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    return [done.returncode], done.stdout


def fit_side_by_side(arguments: list[str]) -> tuple[list[int | None], str]:
    """Exit statuses and output of a run on two processes that are started side by side."""
    return run(arguments, ranks=2)


def stop(epoch: int, batch: int, rank: int) -> str:
    place = f"{{number: SIGTERM, epoch: {epoch}, batch: {batch}, rank: {rank}}}"
    return f"--trainer.callbacks=[{{class_path: tests.support.signals.SignalAt, init_args: {place}}}]"


@pytest.mark.timeout(600)  # four runs, each of which may take 240 s
def test_a_signal_to_one_process_stops_both(shapes: Path, tmp_path: Path) -> None:
    statuses, written = fit_side_by_side(options(shapes, tmp_path, "--run_name=whole"))
    assert statuses == [0, 0], written[-3000:]
    # 5 validation images are 3 and 2: one rank has a batch more.
    summary = json.loads((tmp_path / "whole" / "version_0" / "summary.json").read_text())
    assert summary["epochs"] == 3 and summary["last"]["val/map"] >= 0
    parts = tmp_path / "parts" / "version_0"
    # In the middle of an epoch; so late that it is learnt of within the validation; and within a validation.
    for epoch, batch, rank, saved in ((0, 1, 1, 3), (1, BATCHES - 1, 1, 10), (2, -1, 0, 15)):
        place = stop(epoch, batch, rank)
        more = ("--run_name=parts", "--ckpt_path=auto", place)
        # Lightning starts the second process of the first run; in the others both are started side by side.
        fit = fit_by_lightning if epoch == 0 else fit_side_by_side
        statuses, written = fit(options(shapes, tmp_path, *more))
        assert set(statuses) == {75}, written[-3000:]
        loop = contents(parts)["loops"]["fit_loop"]
        assert loop["epoch_loop.batch_progress"]["total"]["processed"] == saved
        assert loop["epoch_progress"]["current"]["processed"] == epoch  # a validation is not over
        assert written.count("run directory") == 1
        command = "  yolo-lightning fit" if epoch == 0 else "what started these 2 processes, and"
        assert f"resume with {command} --ckpt_path {parts}" in written
    more = ("--run_name=parts", "--ckpt_path=auto", "--trainer.callbacks=null")
    statuses, written = fit_side_by_side(options(shapes, tmp_path, *more))
    assert statuses == [0, 0], written[-3000:]
    assert_equal_runs(tmp_path / "whole" / "version_0", parts)


def test_an_epoch_goes_on_with_another_number_of_processes(shapes: Path, tmp_path: Path) -> None:
    statuses, written = fit_side_by_side(options(shapes, tmp_path, "--run_name=parts", stop(1, 0, 0)))
    assert statuses == [75, 75], written[-3000:]
    parts = tmp_path / "parts" / "version_0"
    [loader] = contents(parts)["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert loader == {"epoch": 1, "seen": 4, "images": 10, "left_out": 0}
    alone = options(
        shapes, tmp_path, "--run_name=parts", "--ckpt_path=last", "--trainer.callbacks=null",
        "--trainer.devices=1", "--data.batch_size=3",
    )  # fmt: skip
    [status], written = run(alone)
    assert status == 0, written[-3000:]
    loop = contents(parts)["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    # 5 + 2 batches of 2 x 1, then 2 of 3 for the 6 pictures that are left, then 4 of 3 for all 10
    assert loop["total"]["processed"] == 7 + 2 + 4
    assert json.loads((parts / "summary.json").read_text())["epochs"] == 3
