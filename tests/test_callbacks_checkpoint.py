"""Which epochs and validations a run keeps the weights of."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from yolo_lightning.__main__ import main


class StopWithin(Callback):
    """Ends training in the middle of the first epoch, as a limit on time does."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        trainer.should_stop = True


def test_the_validation_that_a_stop_within_an_epoch_ends_with_can_be_the_best(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main(
        [
            "fit", f"--data.root={shapes}", "--data.image_size=64", "--data.batch_size=4",
            "--data.num_workers=0", "--model.compile=false", "--model.channels_last=true",
            "--trainer.precision=32-true", "--trainer.accelerator=cpu", "--trainer.devices=1",
            "--trainer.max_epochs=3", f"--trainer.callbacks+={__name__}.StopWithin",
        ]
    )  # fmt: skip
    run = tmp_path / "runs" / "fit" / "version_0"
    best, last = (
        torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("best", "last")
    )
    progress = best["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert progress["completed"] == 1  # of three batches
    assert all(torch.equal(best["state_dict"][name], last["state_dict"][name]) for name in last["state_dict"])
    [kept] = [
        state["best_model_score"] for name, state in best["callbacks"].items() if "'val/map'" in str(name)
        and "best_model_score" in state
    ]  # fmt: skip
    summary = json.loads((run / "summary.json").read_text())
    assert summary["best"]["val/map"] == pytest.approx(float(kept))
