from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from tests.support.progress_run import Tiny, loader, make_trainer, rows
from yolo_lightning.monitoring.screen import epoch_table, progress
from yolo_lightning.monitoring.screen.progress import EpochProgress


def test_lines_show_their_own_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer(tmp_path).fit(Tiny(), loader(), loader(2))
    out = capsys.readouterr().out
    assert "\r" not in out and "\x1b" not in out
    header = [line for line in out.splitlines() if "mAP50-95" in line]
    assert len(header) == 1
    assert header[0].split() == [
        "epoch", "box", "obj", "cls", "P", "R", "F1", "F1", "conf", "mAP50", "mAP50-95", "images/s",
        "data", "wait", "seconds", "left",
    ]  # fmt: skip
    at_best_f1 = ["0.7000", "0.6000", "0.6500", "0.4000"]
    assert [row[:10] for row in rows(out)] == [
        ["1/3", "0.2500", "0.5000", "0.1250", *at_best_f1, "0.5000", "0.1000"],
        ["2/3", "1.2500", "0.5000", "0.1250", *at_best_f1, "0.7000", "0.3000"],
        ["3/3", "2.2500", "0.5000", "0.1250", *at_best_f1, "0.6000", "0.2000"],
    ]
    for row in rows(out):
        assert float(row[10]) > 0
        assert 0 <= int(row[11].removesuffix("%")) <= 100
        assert float(row[12]) >= 0
        assert re.fullmatch(r"\d:\d\d", row[13])
    assert rows(out)[-1][13] == "0:00"
    assert [row[-1] == "*" for row in rows(out)] == [True, True, False]


def test_an_epoch_without_validation_has_dashes_not_old_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make_trainer(tmp_path, max_epochs=5, check_val_every_n_epoch=2)
    trainer.fit(Tiny(), loader(), loader(2))
    found = rows(capsys.readouterr().out)
    assert [row[0] for row in found] == ["1/5", "2/5", "3/5", "4/5", "5/5"]
    assert [row[9] for row in found] == ["-", "0.3000", "-", "0.2500", "-"]
    assert [row[-1] == "*" for row in found] == [False, True, False, False, False]


def test_without_any_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer(tmp_path, limit_val_batches=0).fit(Tiny(), loader(), loader(2))
    out = capsys.readouterr().out
    assert [row[1] for row in rows(out)] == ["0.2500", "1.2500", "2.2500"]
    assert [row[4:10] for row in rows(out)] == [["-"] * 6] * 3
    assert "best" not in out


def test_a_loss_that_is_not_a_number_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer(tmp_path, max_epochs=1).fit(Tiny(nan_loss=True), loader(), loader(2))
    assert rows(capsys.readouterr().out)[0][1] == "nan"


def test_the_header_returns_sparingly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoch_table, "_HEADER_INTERVAL", 2)
    make_trainer(tmp_path, max_epochs=5).fit(Tiny(), loader(1), loader(1))
    lines = capsys.readouterr().out.splitlines()
    assert ["epoch" in line for line in lines[:8]] == [True, False, False, True, False, False, True, False]


@pytest.mark.parametrize("has_curves", [True, False])
def test_fit_ends_with_where_everything_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], has_curves: bool
) -> None:
    root = tmp_path / "a run"
    logger = TensorBoardLogger(root) if has_curves else False
    make_trainer(root, saver(root), enable_checkpointing=True, logger=logger).fit(Tiny(), loader(), loader(2))
    lines = capsys.readouterr().out.splitlines()[-4 - has_curves :]
    assert lines[0] == "best val/map 0.3000 in epoch 2"
    assert lines[1].endswith(str(root))
    assert lines[2].endswith(f"{root}/checkpoints/best.ckpt")
    assert lines[3].endswith(f"{root}/checkpoints/last.ckpt")
    assert not has_curves or lines[4].endswith(f"tensorboard --logdir '{root}'")


def saver(root: Path) -> ModelCheckpoint:
    return ModelCheckpoint(root / "checkpoints", "best", monitor="val/map", mode="max", save_last=True)


def test_a_resumed_run_remembers_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer(tmp_path, saver(tmp_path), enable_checkpointing=True, max_epochs=2).fit(
        Tiny(), loader(), loader(2)
    )
    capsys.readouterr()
    trainer = make_trainer(tmp_path, saver(tmp_path), enable_checkpointing=True, max_epochs=4)
    trainer.fit(Tiny(), loader(), loader(2), ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    out = capsys.readouterr().out
    assert [(row[0], row[1], row[-1] == "*") for row in rows(out)] == [
        ("3/4", "2.2500", False),
        ("4/4", "3.2500", False),
    ]
    assert "best val/map 0.3000 in epoch 2" in out


def test_the_monitor_chooses_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Losing(Tiny):
        def on_validation_epoch_end(self) -> None:
            self.log_dict(
                {"val/loss": [0.3, 0.1, 0.2][self.current_epoch], "val/map": self.current_epoch / 10}
            )

    trainer = make_trainer(tmp_path, num_sanity_val_steps=0)
    trainer.callbacks[0] = EpochProgress("val/loss")  # type: ignore[attr-defined]
    trainer.fit(Losing(), loader(), loader(2))
    out = capsys.readouterr().out
    assert [row[-1] == "*" for row in rows(out)] == [True, True, False]
    assert "best val/loss 0.1000 in epoch 2" in out


def test_a_second_fit_has_a_star_only_if_it_is_better(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (make_trainer(tmp_path, max_epochs=2) for _ in range(2))
    second.callbacks[0] = first.callbacks[0]  # type: ignore[attr-defined]
    for trainer, stars in ((first, [True, True]), (second, [False, False])):
        trainer.fit(Tiny(), loader(), loader(2))
        assert [row[-1] == "*" for row in rows(capsys.readouterr().out)] == stars


def test_interrupted_training_says_where_everything_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupt(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
            if trainer.current_epoch == 1:
                raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        make_trainer(tmp_path, Interrupt()).fit(Tiny(), loader(), loader(2))
    out = capsys.readouterr().out
    assert [row[0] for row in rows(out)] == ["1/3"]
    assert f"run directory  {tmp_path}" in out


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_evaluation_prints_a_table(stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    getattr(make_trainer(tmp_path), stage)(Tiny(), loader(2), verbose=False)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    split = "val" if stage == "validate" else "test"
    assert lines == [
        [split, "P", "R", "F1", "F1", "conf", "mAP50-95", "mAP50", "mAP75", "small", "medium", "large"],
        ["all", "classes", "0.7000", "0.6000", "0.6500", "0.4000", "0.1000", "0.5000", "0.0500", "-",
         "0.0200", "0.0300"],
        ["red", "cell", "0.3500", "0.1500"],
        ["platelet", "-"],
    ]  # fmt: skip


def test_without_a_terminal_losses_are_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(pl_module: LightningModule) -> str:
        raise AssertionError("reading waits for the device")

    monkeypatch.setattr(progress, "_running_losses", read)
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(Tiny(), loader(), loader(2))
    assert trainer.current_epoch == 1  # it ran to its end


def test_only_the_first_process_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bar = EpochProgress()
    bar.setup(SimpleNamespace(is_global_zero=False), Tiny(), "fit")  # type: ignore[arg-type]
    assert not bar.is_enabled
    bar.on_fit_end(SimpleNamespace(default_root_dir=tmp_path, is_global_zero=False), Tiny())  # type: ignore[arg-type]
    assert capsys.readouterr().out == ""
