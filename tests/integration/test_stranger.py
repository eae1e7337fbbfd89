"""Runs that were begun by somebody else, and runs that begin themselves again, from the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from tests.support.quiet import QUIET
from tests.support.small_network import write_small_yaml
from yolo_lightning.__main__ import main

ROOT = Path(__file__).parents[2]


class Mine(Callback):
    """A callback of the user's; without a state, so that several of them are not refused."""


def options(shapes: Path, *more: str) -> list[str]:
    small = ["--data.image_size=64", "--data.batch_size=4", "--model.compile=false", "--data.num_workers=0"]
    return ["--data.root", str(shapes), *small, "--trainer.accelerator=cpu", *QUIET, *more]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def change(path: Path, **values: Any) -> None:
    contents = torch.load(path, weights_only=True)
    for name in contents["callbacks"]:
        if "ModelCheckpoint" in str(name) or "EpochCheckpoint" in str(name):
            contents["callbacks"][name] |= values
    torch.save(contents, path)


@pytest.mark.parametrize("kind", ["local://{}", "file://{}", "{}"])
def test_a_resumed_run_removes_nothing_that_its_checkpoint_names(
    kind: str, shapes: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    (home / "photos").mkdir(parents=True)
    (home / "photos" / "one.jpg").write_text("mine")
    extra = "--trainer.callbacks=[{class_path: ModelCheckpoint, init_args: {save_top_k: 1}}]"
    main(["fit", *options(shapes, "--trainer.max_epochs=1", extra)])
    path, text = Path("runs/fit/version_0/checkpoints/last.ckpt"), kind.format(home)
    scores = {text: torch.tensor(-1.0)}
    change(
        path, best_model_path=text, last_model_path=text, kth_best_model_path=text, best_k_models=scores,
        kth_value=torch.tensor(-1.0), best_model_score=torch.tensor(-1.0),
    )  # fmt: skip
    main(["fit", f"--ckpt_path={path}", "--trainer.max_epochs=2"])
    assert (home / "photos" / "one.jpg").read_text() == "mine"
    assert torch.load(path, weights_only=True)["epoch"] == 1


def test_a_job_that_repeats_its_command_resumes_without_a_flag(
    shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Callbacks of its own do not become more with every start. Without them it says what to do."""
    command = ["fit", "--run_name=job", "--ckpt_path=auto", f"--trainer.callbacks+={__name__}.Mine"]
    run = Path("runs/job/version_0")
    for epochs in (1, 2, 3):
        main([*command, *options(shapes, f"--trainer.max_epochs={epochs}")])
        saved = yaml.safe_load((run / "config.yaml").read_text())["trainer"]["callbacks"]
        assert [one["class_path"] for one in saved] == [f"{__name__}.Mine"]
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 2
    capsys.readouterr()
    again = ["fit", "--run_name=job", "--ckpt_path=last", "--trainer.max_epochs=4"]
    with pytest.raises(SystemExit) as exit_:
        main(again)
    assert exit_.value.code == 2
    assert f"trainer.callbacks is '{__name__}.Mine'; " in (error := capsys.readouterr().err)
    assert "--trust_config" in error
    main([*again, "--trust_config"])
    config = (run / "config.yaml").read_text()
    assert "Mine" in config and "trust_config" not in config


def test_a_run_of_a_model_yaml_needs_no_yaml_again(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(write_small_yaml(tmp_path, anchors=True))
    main(["fit", *options(shapes, "--trainer.max_epochs=1", f"--model.architecture={path}")])
    text = path.read_text()
    path.unlink()
    main(["fit", "--ckpt_path=last", "--trainer.max_epochs=2"])
    main(["validate", "--ckpt_path=best"])
    best = Path("runs/fit/version_0/checkpoints/best.ckpt")
    main(["visualize", "--ckpt_path=best", "--source", str(next(shapes.rglob("*.jpg"))), "--layers", "2"])
    main(["report", "fit"])
    assert "backbone" not in capsys.readouterr().err
    path.write_text(text)
    main(["validate", "--ckpt_path=best", f"--model.architecture={path}"])  # the same one
    contents = torch.load(best, weights_only=True)
    contents["hyper_parameters"]["architecture"] = str(path)  # as older checkpoints have it
    torch.save(contents, best)
    config = Path("runs/fit/version_0/config.yaml")
    values = yaml.safe_load(config.read_text())
    values["model"]["architecture"] = str(path)
    config.write_text(json.dumps(values))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["validate", "--ckpt_path=best"])
    assert "a path in a checkpoint is not opened; give --model.architecture FILE" in capsys.readouterr().err
    main(["validate", "--ckpt_path=best", f"--model.architecture={path}"])


_WITHOUT_SOCKETS = """
import os, sys
log = os.environ["SOCKETS"]
def refuse(event, arguments):
    if not event.startswith("socket.") or event == "socket.gethostname":
        return
    family = arguments[1] if event == "socket.__new__" else getattr(arguments[0], "family", 0)
    if family == 1 and os.environ["UNIX_SOCKETS"] != "0":
        return
    with open(log, "a") as file:
        print(event, *arguments, file=file)
    raise PermissionError(event)
sys.addaudithook(refuse)
from yolo_lightning.__main__ import main
if __name__ == "__main__":
    main(sys.argv[1:])
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_one_process_opens_no_socket(workers: int, shapes: Path, tmp_path: Path) -> None:
    """With TensorBoard and all that a run draws. Workers may have AF_UNIX ones, which lead nowhere."""
    program, log = tmp_path / "program.py", tmp_path / "sockets.txt"
    program.write_text(_WITHOUT_SOCKETS)
    given = [
        "--data.root", str(shapes), "--data.image_size=64", "--data.batch_size=4", "--data.cache=none",
        f"--data.num_workers={workers}", "--model.compile=false", "--trainer.accelerator=cpu",
        "--trainer.devices=1", "--trainer.max_epochs=1",
    ]  # fmt: skip
    environment = os.environ | {"SOCKETS": str(log), "PYTHONPATH": str(ROOT), "UNIX_SOCKETS": str(workers)}
    command = [sys.executable, str(program), "fit", *given]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert not log.exists(), log.read_text()
    assert done.returncode == 0, done.stderr
    assert list(Path("runs").rglob("events.out.tfevents*")) and list(Path("runs").rglob("report.html"))


def test_the_audit_sees_sockets(tmp_path: Path) -> None:
    program, log = tmp_path / "program.py", tmp_path / "sockets.txt"
    environment = os.environ | {"SOCKETS": str(log), "UNIX_SOCKETS": "1"}
    for code, is_seen in (("socket.socketpair()", False), ("socket.socket()", True)):
        program.write_text(f"{_WITHOUT_SOCKETS.partition('from yolo')[0]}import socket\n{code}")
        done = subprocess.run([sys.executable, str(program)], env=environment, capture_output=True)
        assert (done.returncode != 0, log.exists()) == (is_seen, is_seen)
