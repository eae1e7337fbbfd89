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
        "yolo_lightning.training.module.log_values",
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
    assert last.keys() == KEYS.keys() - {"MixedPrecision"} and last["format_version"] == FORMAT_VERSION
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
