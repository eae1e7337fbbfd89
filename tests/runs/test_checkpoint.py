"""Which epochs and validations a run keeps the weights of."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from yolo_lightning.__main__ import main
from yolo_lightning.runs.checkpoint_format import FORMAT_VERSION, KEYS

OPTIONS = (
    "fit", "--data.image_size=64", "--data.batch_size=4", "--data.num_workers=0", "--model.compile=false",
    "--model.channels_last=true", "--trainer.precision=32-true", "--trainer.accelerator=cpu",
    "--trainer.devices=1",
)  # fmt: skip


class StopWithin(Callback):
    """Ends training in the middle of the first epoch, as a limit on time does."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        trainer.should_stop = True


def files_of(run: Path) -> tuple[Path, Path]:
    return run / "checkpoints" / "best.ckpt", run / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize("improves", [True, False])
def test_best_and_last_of_an_epoch_are_written_once(
    improves: bool, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    maps = iter((0.0, 0.1, 0.2) if improves else (0.0, 0.2, 0.1))  # the first one is that of the sanity check
    monkeypatch.setattr(
        "yolo_lightning.training.module_evaluation.log_values",
        lambda *_: {"map": torch.tensor(value := next(maps)), "map_50": value},
    )
    main([*OPTIONS, f"--data.root={shapes}", "--trainer.max_epochs=2"])
    best, last = files_of(tmp_path / "runs" / "fit" / "version_0")
    assert best.samefile(last) == improves
    epochs = [torch.load(file, weights_only=True)["epoch"] for file in (best, last)]
    assert epochs == [int(improves), 1]


def test_the_validation_that_a_stop_within_an_epoch_ends_with_can_be_the_best(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stop = f"--trainer.callbacks+={__name__}.StopWithin"
    main([*OPTIONS, f"--data.root={shapes}", "--trainer.max_epochs=3", stop])
    run = tmp_path / "runs" / "fit" / "version_0"
    best, last = (torch.load(file, weights_only=True) for file in files_of(run))
    assert (
        last.keys() == KEYS.keys() - {"MixedPrecision", "DetectionDataModule"}
        and last["format_version"] == FORMAT_VERSION
    )
    progress = best["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert progress["completed"] == 1  # of three batches
    assert all(torch.equal(best["state_dict"][name], last["state_dict"][name]) for name in last["state_dict"])
    kept, known = (
        [
            float(state["best_model_score"]) for name, state in contents["callbacks"].items()
            if "'val/map'" in str(name) and "best_model_score" in state
        ]
        for contents in (best, last)
    )  # fmt: skip
    assert kept == known and len(kept) == 1  # so that what resumes does not put a worse one in its place
    summary = json.loads((run / "summary.json").read_text())
    assert summary["best"]["val/map"] == pytest.approx(kept[0])


def kept(run: Path) -> dict[str, int]:
    """Number of the epoch, from 1, in each checkpoint."""
    files = (run / "checkpoints").glob("*.ckpt")
    return {file.stem: torch.load(file, weights_only=True)["epoch"] + 1 for file in files}


def test_the_monitor_chooses_which_epochs_are_kept(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    scores = iter((0.0, 0.3, 0.4, 0.1, 0.2, 0.35))  # the first one is that of the sanity check
    monkeypatch.setattr(
        "yolo_lightning.training.module_evaluation.log_values",
        lambda *_: {"fitness": torch.tensor(score := next(scores)), "map": torch.tensor(1 - score)},
    )
    keep = ("--monitor=fitness", "--save_period=2", "--save_top_k=2", "--dashboard.pictures=0")
    main([*OPTIONS, f"--data.root={shapes}", "--trainer.max_epochs=4", *keep])
    run = tmp_path / "runs" / "fit" / "version_0"
    expected = {"best": 2, "last": 4, "last.previous": 3, "epoch_2": 2, "epoch_4": 4, "top_1": 1, "top_2": 2}
    assert kept(run) == expected
    summary = json.loads((run / "summary.json").read_text())
    assert summary["monitor"] == "val/fitness" and summary["best"]["epoch"] == 1
    assert json.loads((run / "evaluation.json").read_text())["epoch"] == 1

    with pytest.raises(SystemExit):
        main(["fit", "--ckpt_path=last", "--trainer.max_epochs=5", "--monitor=val/map"])
    assert "chooses best.ckpt by 'val/fitness', not by 'val/map'; leave" in capsys.readouterr().err
    assert kept(run) == expected
    scores = iter((0.0, 0.45))  # the best, which last.ckpt has to know
    main(["fit", "--ckpt_path=last", "--trainer.max_epochs=5"])
    scores = iter((0.0, 0.42))
    main(["fit", "--ckpt_path=last", "--trainer.max_epochs=6"])
    for name in ("top_1", "top_2"):
        del expected[name]
    expected |= {"best": 5, "last": 6, "last.previous": 5, "epoch_6": 6, "top_5": 5, "top_6": 6}
    assert kept(run) == expected


def test_of_a_loss_the_smallest_is_kept(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    losses = iter((0.0, 0.3, 0.1, 0.2))
    monkeypatch.setattr(
        "yolo_lightning.training.module_evaluation.MeanLosses.take",
        lambda *_: {"loss": torch.tensor(next(losses))},
    )
    options = ("--monitor=val/loss", "--patience=1", "--dashboard.pictures=0")
    main([*OPTIONS, f"--data.root={shapes}", "--trainer.max_epochs=9", *options])
    run = tmp_path / "runs" / "fit" / "version_0"
    assert kept(run) == {"best": 2, "last": 3, "last.previous": 2}
    assert json.loads((run / "summary.json").read_text())["best"]["epoch"] == 1


def test_a_validation_with_nothing_to_find_keeps_the_newest(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("yolo_lightning.training.module_evaluation.log_values", lambda *_: {})
    main([*OPTIONS, f"--data.root={shapes}", "--trainer.max_epochs=2", "--dashboard.pictures=0"])
    run = tmp_path / "runs" / "fit" / "version_0"
    assert kept(run) == {"best": 2, "last": 2, "last.previous": 1}
    assert "val/map" not in (run / "metrics.csv").read_text()
