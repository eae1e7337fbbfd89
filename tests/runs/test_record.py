import csv
import json
import math
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from yolo_lightning.runs.directory import read_metrics
from yolo_lightning.runs.record import RunRecorder, SaveConfig, metrics_as_csv, summarise
from yolo_lightning.system import environment
from yolo_lightning.system.cores import usable_cores


def test_a_table_with_columns_that_come_later(tmp_path: Path) -> None:
    rows = [{"epoch": 0.0, "a": 0.1}, {"epoch": 1.0, "a": 1 / 3, "val/map": 0.5}]
    path = tmp_path / "metrics.csv"
    path.write_text(metrics_as_csv(rows))
    assert path.read_text().splitlines()[:2] == ["epoch,a,val/map", "0,0.1,"]
    assert read_metrics(path) == rows


@pytest.mark.parametrize("first", "=+-@\t\r\n")
def test_a_name_that_a_spreadsheet_would_compute_is_text_and_stays_so(tmp_path: Path, first: str) -> None:
    """Names come from the table of the run that is resumed."""
    path, name = tmp_path / "metrics.csv", f'{first}HYPERLINK("http://x","y")'
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["epoch", name, "val/map_class/=1"], [0, -1, 0.5]])
    for _ in range(2):
        path.write_text(metrics_as_csv(read_metrics(path)), newline="")
        with path.open(newline="") as file:
            assert [*csv.reader(file)] == [["epoch", f"'{name}", "val/map_class/=1"], ["0", "-1.0", "0.5"]]


def test_summary_names_the_first_of_the_best_epochs(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_text("")
    rows = [
        {"epoch": 0.0, "val/map": 0.2, "perf/images_per_second": 10.0, "wall_seconds": 5.0},
        {"epoch": 1.0, "val/map": 0.4, "perf/images_per_second": 30.0, "wall_seconds": 9.0},
        {"epoch": 2.0, "perf/images_per_second": 20.0, "wall_seconds": 12.0},
        {"epoch": 3.0, "val/map": 0.4, "val/map_50": math.nan, "wall_seconds": 20.0},
    ]
    summary = summarise(rows, tmp_path)
    assert summary["best"]["epoch"] == 1
    assert summary["last"] == {"epoch": 3, "val/map": 0.4, "val/map_50": None, "wall_seconds": 20.0}
    assert (summary["epochs"], summary["images_per_second"], summary["wall_seconds"]) == (4, 20.0, 20.0)
    assert summary["checkpoints"] == {"best": None, "last": str(tmp_path / "last.ckpt")}


def test_without_validation_the_last_epoch_stands_for_the_best(tmp_path: Path) -> None:
    rows = [{"epoch": 0.0, "wall_seconds": 1.0}, {"epoch": 1.0, "wall_seconds": 2.0}]
    summary = summarise(rows, tmp_path)
    assert summary["best"]["epoch"] == 1
    assert summary["images_per_second"] is None


def test_without_anything_to_find_the_last_epoch_is_the_best_as_in_the_checkpoint(tmp_path: Path) -> None:
    rows = [{"epoch": float(i), "val/map": -1.0, "wall_seconds": 1.0} for i in range(3)]
    assert summarise(rows, tmp_path)["best"]["epoch"] == 2


def test_the_commit_of_a_project_around_the_installation_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / ".venv" / "lib" / "site-packages" / "yolo_lightning" / "system" / "environment.py"
    installed.parent.mkdir(parents=True)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    monkeypatch.setattr(environment, "__file__", str(installed))
    assert environment.git_commit() is None


class Counting(LightningModule):
    """Logs its epoch as the loss and the metric."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        return self.layer(batch).sum()

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        self.log("val/map", float(self.current_epoch))

    def on_train_epoch_end(self) -> None:
        self.log("train/box_loss", float(self.current_epoch))


def fit(tmp_path: Path, epochs: int, ckpt_path: Path | None = None, **options: Any) -> Trainer:
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=epochs, logger=False, default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False, 
        callbacks=[RunRecorder(tmp_path)], **options,
    )  # fmt: skip
    loader = DataLoader(torch.zeros(4, 1), batch_size=2)  # type: ignore[arg-type]
    trainer.fit(Counting(), loader, loader, ckpt_path=ckpt_path)
    return trainer


def test_a_row_holds_the_figures_of_its_own_epoch(tmp_path: Path) -> None:
    fit(tmp_path, 4, check_val_every_n_epoch=2)
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [(row["epoch"], row["step"], row["train/box_loss"], row.get("val/map")) for row in rows] == [
        (0, 2, 0, None),
        (1, 4, 1, 1),
        (2, 6, 2, None),
        (3, 8, 3, 3),
    ]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["best"]["epoch"], summary["epochs"]) == (3, 4)
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert (environment["world_size"], environment["cpu_count"]) == (1, usable_cores())


def test_a_resumed_run_keeps_earlier_rows_and_replaces_later_ones(tmp_path: Path) -> None:
    trainer = fit(tmp_path, 2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    fit(tmp_path, 4, ckpt_path=tmp_path / "two.ckpt")  # rows 2 and 3 are then of a run that is given up
    before = read_metrics(tmp_path / "metrics.csv")
    fit(tmp_path, 3, ckpt_path=tmp_path / "two.ckpt")
    after = read_metrics(tmp_path / "metrics.csv")
    assert [row["epoch"] for row in before] == [0, 1, 2, 3]
    assert [row["epoch"] for row in after] == [0, 1, 2]
    assert after[:2] == before[:2]
    assert [row["wall_seconds"] for row in after] == sorted(row["wall_seconds"] for row in after)


def test_names_of_classes_that_look_like_numbers_stay_texts(tmp_path: Path) -> None:
    names = ["1e3", "1.5e3", "1_0E-2", "02146", "no", "12:30", ".5", "null", "~"]
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--names", type=list[str] | None)
    parser.add_argument("--rate", type=float)
    trainer: Any = SimpleNamespace(is_global_zero=True, default_root_dir=tmp_path)
    saved: Any = SaveConfig(parser, parser.parse_object({"names": names, "rate": 1e-5}))
    saved.on_train_start(trainer, None)
    again = parser.parse_args(["--config", str(tmp_path / "config.yaml")])
    assert (again.names, again.rate) == (names, 1e-5)
