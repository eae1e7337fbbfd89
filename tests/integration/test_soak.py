"""A run that is killed again and again ends with the weights of one that is not."""

from __future__ import annotations

import math
import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import start
from tests.support.quiet import QUIET
from tests.support.run_comparison import assert_equal_runs, contents
from yolo_lightning.data.synthetic import make_dataset
from yolo_lightning.runs.directory import METRICS, read_metrics

BATCHES = 20


def wait_until(happened: Callable[[], bool], process: multiprocessing.process.BaseProcess) -> None:
    while process.is_alive() and not happened():
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kills", "epochs"), [(4, 4), pytest.param(30, 10, marks=pytest.mark.long)])
def test_killed_at_any_moment(kills: int, epochs: int, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")  # pytest shows it when the test fails
    moment = random.Random(seed)
    shapes = make_dataset(tmp_path / "shapes", train_images=2 * BATCHES, val_images=3, image_size=64)
    options = [
        "fit", "--data.root", str(shapes), "--data.image_size=64", "--data.batch_size=2",
        "--data.num_workers=0", "--model.compile=false", "--model.channels_last=true",
        "--trainer.precision=32-true",
        "--model.optimizer.nominal_batch_size=4", "--model.optimizer.warmup_epochs=0",
        "--trainer.accelerator=cpu", "--trainer.devices=1",
        f"--trainer.max_epochs={epochs}", f"--runs_dir={tmp_path}", "--ckpt_path=auto",
        "--checkpoint_minutes=0.001", *QUIET,
    ]  # fmt: skip
    whole = start([*options, "--run_name=whole"], tmp_path / "whole.log")
    whole.join()
    assert whole.exitcode == 0, (tmp_path / "whole.log").read_text()[-3000:]

    trained_s = read_metrics(tmp_path / "whole" / "version_0" / METRICS)[-1]["wall_seconds"]
    longest_s = min(0.4, trained_s / kills / 2)  # or a fast machine would be done before the last kill

    run, log = tmp_path / "parts" / "version_0", tmp_path / "parts.log"
    last = run / "checkpoints" / "last.ckpt"
    saved = 0
    for kill in range(kills):
        process = start([*options, "--run_name=parts"], log)
        known = last.stat().st_mtime_ns if last.exists() else 0
        until = time.monotonic() + (moment.uniform(0, 3) if kill % 4 == 3 else math.inf)

        def has_saved(known: int = known, until: float = until) -> bool:
            """Or, of some, that the moment has come: before or while it finds its checkpoint."""
            return time.monotonic() > until or (last.exists() and last.stat().st_mtime_ns != known)

        wait_until(has_saved, process)
        if until == math.inf:
            process.join(moment.uniform(0, longest_s))
        assert process.exitcode is None, log.read_text()[-3000:]
        process.kill()
        process.join()
        saved += last.exists() and last.stat().st_mtime_ns != known
    assert saved > kills // 2  # else it was not training that was killed
    assert len(list(run.parent.iterdir())) == 1
    final = start([*options, "--run_name=parts"], log)
    final.join()
    assert final.exitcode == 0, log.read_text()[-3000:]
    assert "damaged" not in log.read_text()
    assert_equal_runs(tmp_path / "whole" / "version_0", run)
    assert contents(run)["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"] == epochs
