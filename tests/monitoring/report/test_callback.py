import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from yolo_lightning.monitoring.report.page import RunReport
from yolo_lightning.performance.time_budget import TimeBudget
from yolo_lightning.runs.record import RunRecorder
from yolo_lightning.system.background import BackgroundQueue


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        return self.layer(batch).sum()

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        self.log("val/map", float(self.current_epoch) / 10)


class Stops(Callback):
    """Ends the run in its second epoch, or in the first."""

    def __init__(self, error: BaseException, epoch: int = 1) -> None:
        self.error, self.epoch = error, epoch

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.current_epoch == self.epoch:
            raise self.error


def fit(folder: Path, *callbacks: Callback) -> None:
    queue = BackgroundQueue()
    # What is still being written when training ends is in the report.
    late = Late(folder, queue)
    loader: Any = DataLoader(torch.zeros(2, 1), batch_size=1)  # type: ignore[arg-type]
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=3, logger=False, default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[
            *callbacks, late, TimeBudget(folder, queue), RunRecorder(folder), RunReport(folder, queue),
        ],
    )  # fmt: skip
    trainer.fit(Model(), loader, loader)


class Late(Callback):
    def __init__(self, folder: Path, queue: BackgroundQueue) -> None:
        self.folder, self.queue = folder, queue

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.queue.submit(self._write)

    def _write(self) -> None:
        time.sleep(0.2)
        (self.folder / "gpu_health.json").write_text('{"devices": [{"name": "Late GPU"}]}')


def test_the_report_has_what_the_other_files_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for found in ("Late GPU", 'id="time"', "best epoch: 3", "0.200"):
        assert found in text
    assert f"report         {tmp_path / 'report.html'}" in capsys.readouterr().out


def test_a_run_that_is_stopped_has_one(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        fit(tmp_path, Stops(SystemExit(75)))
    assert 'id="time"' in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("error", [SystemExit(75), RuntimeError("failed")])
def test_a_run_that_failed_or_has_no_epoch_has_none(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        fit(tmp_path, Stops(error, epoch=0 if isinstance(error, SystemExit) else 1))
    assert not (tmp_path / "report.html").exists()


def test_a_report_that_cannot_be_made_ends_no_run(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.warns(UserWarning, match="the report could not be made"):
        fit(tmp_path)
    assert (tmp_path / "summary.json").is_file()
