from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from yolo_lightning.cli.main import run
from yolo_lightning.errors import InputError


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--seeds", "1", "--run_name", "a"], "--seeds is 1; give a number from 2"),
        (["--seeds=x", "--run_name", "a"], "--seeds is x"),
        (["--seeds", "2"], "--seeds needs --run_name NAME"),
        (["--seeds", "2", "--run_name", "a", "--seed_everything", "3"], "--seeds sets --seed_everything"),
        (["--seeds", "2", "--run_name", "a", "--ckpt_path", "last"], "--seeds sets --ckpt_path"),
    ],
)
def test_wrong_options(options: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        run(["fit", *options])


def test_seeds_of_a_configuration_are_refused(tmp_path: Path, shapes: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"seeds: 3\ndata: {{root: '{shapes}'}}\n")
    with pytest.raises(InputError, match="seeds is 3; give --seeds to fit alone, and on the command line"):
        run(["fit", "--config", str(path)])


def test_each_seed_is_a_run_that_can_be_resumed(tmp_path: Path, shapes: Path) -> None:
    command = [
        sys.executable, "-m", "yolo_lightning", "fit", "--seeds", "2", "--run_name", "twice",
        "--runs_dir", str(tmp_path), "--data.root", str(shapes), "--data.image_size", "64",
        "--data.batch_size", "8", "--data.num_workers", "0", "--data.cache", "none",
        "--trainer.max_epochs", "1",
        "--trainer.accelerator", "cpu", "--model.compile", "false", "--dashboard.pictures", "0",
    ]  # fmt: skip
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["twice-seed0", "twice-seed1"]
    losses = set()
    for seed in (0, 1):
        (version,) = (tmp_path / f"twice-seed{seed}").iterdir()
        assert f"seed_everything: {seed}\n" in (version / "config.yaml").read_text()
        (row,) = csv.DictReader((version / "metrics.csv").open())
        losses.add(row["train/box_loss"])
        assert (version / "checkpoints" / "last.ckpt").is_file()  # which --ckpt_path auto resumes
    assert len(losses) == 2
    assert said.splitlines()[-1].startswith("best val/map of 2 seeds: mean 0.")


def test_ctrl_c_waits_for_the_training_that_saves(tmp_path: Path) -> None:
    """Of the program, the training is replaced by one that takes a second to save."""
    program = (
        "import os, signal, sys, time\n"
        "from yolo_lightning.__main__ import main\n"
        "if '-seed0' not in ' '.join(sys.argv): main()\n"
        "signal.signal(signal.SIGINT, lambda *_: (time.sleep(1), open('saved', 'w'), os._exit(75)))\n"
        "open('ready', 'w')\n"
        "time.sleep(60)\n"
    )
    (tmp_path / "yolo_lightning_fit.py").write_text(program)
    command = (
        "import sys; from yolo_lightning.cli import seeds; from yolo_lightning.__main__ import main\n"
        "start = seeds.subprocess.Popen\n"
        "seeds.subprocess.Popen = lambda a: start([a[0], 'yolo_lightning_fit.py', *a[3:]])\n"
        "main()"
    )
    arguments = [sys.executable, "-c", command, "fit", "--seeds", "2", "--run_name", "twice"]
    with subprocess.Popen(arguments, cwd=tmp_path, start_new_session=True) as running:
        while not (tmp_path / "ready").exists() and running.poll() is None:
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does
        assert running.wait() == 75
        assert (tmp_path / "saved").exists()
