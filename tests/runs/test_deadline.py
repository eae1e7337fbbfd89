import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader

from tests.support.run_comparison import contents, rows
from tests.support.small_network import write_small_yaml
from tests.support.stopped_runs import in_an_empty_folder, options
from yolo_lightning.__main__ import main
from yolo_lightning.errors import InputError
from yolo_lightning.monitoring.screen.time_left import left_text
from yolo_lightning.runs.deadline import Deadline, batches_until_next_look, read_duration
from yolo_lightning.training.contracts import TrainsDetections
from yolo_lightning.training.optimizer import OptimizerConfig, step_settings

__all__ = ["in_an_empty_folder"]
RUN = Path("runs/fit/version_0")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("1h30m", 5400), ("90s", 90), ("0.5h", 1800), ("1d 2h", 93600), ("1.5m", 90)],
)
def test_durations(text: str, seconds: float) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["2", "h", "0s", "-1h", "2 hours", "1:30", "1.2.3h", ""])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="give a time with its unit"):
        read_duration(text)


def test_looks_are_a_hundredth_of_the_time_apart_and_closer_at_the_end() -> None:
    assert batches_until_next_look(remaining_s=500, batch_s=0.1, deadline_s=1000) == 100
    assert batches_until_next_look(remaining_s=4, batch_s=0.1, deadline_s=1000) == 20
    assert batches_until_next_look(remaining_s=4, batch_s=30, deadline_s=1000) == 1


class Simulated(LightningModule, TrainsDetections):
    """A run in which batches and validations take the time that they are said to.

    Args:
        batch_s: times of a batch, one after the other; the last one holds from then on.
        validation_s: time of a validation.
    """

    def __init__(self, batch_s: list[float], validation_s: float) -> None:
        super().__init__()
        self.batch_s, self.validation_s = batch_s, validation_s
        self.schedule_progress: float | None = None
        self.now_s = 0.0
        self.progress: list[float] = []
        self.planned: list[int] = []
        self.log_of: list[str] = []
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        assert self.schedule_progress is not None
        self.progress.append(self.schedule_progress)
        self.now_s += self.batch_s[min(len(self.progress) - 1, len(self.batch_s) - 1)]
        self.log_of.append("batch")
        return self.weight.sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        pass

    def on_validation_end(self) -> None:
        self.now_s += self.validation_s
        self.log_of.append("validation")

    def on_train_epoch_end(self) -> None:
        self.planned.append(self.trainer.max_epochs or 0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def simulate(
    folder: Path,
    deadline_s: float,
    batch_s: list[float],
    batches: int,
    validation_s: float,
    checkpoint: Path | None = None,
    start_s: float = 0.0,
) -> Simulated:
    module = Simulated(batch_s, validation_s)
    deadline = Deadline(deadline_s, -start_s, lambda: module.now_s)
    trainer = Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, default_root_dir=folder, callbacks=[deadline], max_epochs=2,
        enable_checkpointing=False,
    )  # fmt: skip
    loader: Any = DataLoader(torch.zeros(batches, 1), batch_size=1)
    trainer.fit(module, loader, DataLoader(torch.zeros(1, 1)), ckpt_path=checkpoint)  # type: ignore[arg-type]
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("deadline_s", "batch_s", "batches", "validation_s"),
    [
        (300.0, [1.0], 20, 5.0),
        (310.0, [1.0], 20, 5.0),  # 12 epochs take 300 s, and 10 s have no room for a whole one
        (304.0, [1.0], 20, 5.0),  # 4 s have no room for a validation: the one before is left out
        (300.0, [30.0, *[1.0] * 100, 2.0], 20, 5.0),  # the first batch compiles, and later all are slower
        (300.0, [1.0], 1000, 5.0),  # less than an epoch
        (300.0, [1.0], 2, 3.0),
        (300.0, [3.0], 1, 1.0),
    ],
)
def test_a_run_ends_on_time_with_a_validation_and_the_schedule_at_its_end(
    tmp_path: Path, deadline_s: float, batch_s: list[float], batches: int, validation_s: float
) -> None:
    run = simulate(tmp_path, deadline_s, batch_s, batches, validation_s)
    assert run.now_s == pytest.approx(deadline_s, rel=0.02)
    assert run.log_of[-1] == "validation"
    assert run.log_of.count("validation") >= len(run.planned) - 1
    assert run.progress == sorted(run.progress) and 0.97 <= run.progress[-1] <= 1
    assert all(planned > epoch + 1 for epoch, planned in enumerate(run.planned[:-1]))
    assert run.planned[-1] == len(run.planned)


@pytest.mark.filterwarnings("ignore")
def test_the_schedule_begins_with_the_first_batch(tmp_path: Path) -> None:
    """The time that the program takes to start is no part of the schedule."""
    run = simulate(tmp_path, 300.0, [1.0], 20, 5.0, start_s=100.0)
    assert run.now_s == pytest.approx(200, rel=0.02)
    assert run.progress[0] == 0 and 0.97 <= run.progress[-1] <= 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("deadline_s", "trained_s"), [(300, 0), (450, 150)])
def test_a_run_that_resumes_has_the_rest_of_the_time(
    tmp_path: Path, deadline_s: float, trained_s: float
) -> None:
    """One that has ended trains further only with a later deadline."""
    first = simulate(tmp_path, 300, [1.0], 20, 5.0)
    first.trainer.save_checkpoint(tmp_path / "last.ckpt")
    second = simulate(tmp_path, deadline_s, [1.0], 20, 5.0, tmp_path / "last.ckpt")
    assert second.now_s == pytest.approx(trained_s, abs=0.02 * deadline_s)
    assert bool(second.progress) == bool(trained_s)
    if trained_s:
        assert second.progress[0] == pytest.approx(first.now_s / deadline_s, rel=0.05)
        assert second.planned[-1] > first.planned[-1] > 2


@pytest.mark.filterwarnings("ignore")
def test_a_run_that_ended_by_its_epochs_trains_on_until_a_deadline(tmp_path: Path) -> None:
    first = simulate(tmp_path, 300, [1.0], 20, 5.0)
    first.trainer.callbacks.clear()  # type: ignore[attr-defined]
    first.trainer.save_checkpoint(tmp_path / "last.ckpt")
    content = torch.load(tmp_path / "last.ckpt")
    content["callbacks"]["RunRecorder"] = {"wall_seconds": 300.0}
    torch.save(content, tmp_path / "last.ckpt")
    second = simulate(tmp_path, 100, [1.0], 20, 5.0, tmp_path / "last.ckpt")
    assert second.now_s == pytest.approx(100, rel=0.02)  # from the start of the program on
    assert second.progress[0] == pytest.approx(300 / 400, abs=0.02)  # the rate makes no jump to its start
    assert 0.97 <= second.progress[-1] <= 1
    second.trainer.save_checkpoint(tmp_path / "last.ckpt")
    third = simulate(tmp_path, 200, [1.0], 20, 5.0, tmp_path / "last.ckpt")
    assert third.now_s == pytest.approx(100, rel=0.02)
    assert third.progress[0] == pytest.approx(400 / 500, abs=0.02)


def test_a_run_that_goes_back_in_its_process_has_used_the_time_since(tmp_path: Path) -> None:
    clock = iter([100.0, 100.0])
    deadline = Deadline(300.0, 0.0, lambda: next(clock))
    deadline.load_state_dict({"used_s": 50.0, "reached_s": 0.0})
    before = deadline.state_dict()
    deadline.load_state_dict({"used_s": 120.0, "reached_s": 0.0})
    assert deadline.state_dict() == before
    assert before["used_s"] == 150.0


def test_the_rate_follows_the_share_of_the_time() -> None:
    config = OptimizerConfig(warmup_epochs=0)

    def rate(progress: float, epoch: int) -> float:
        place: Any = {"batch_index": 0, "epochs": 7, "batches_per_epoch": 5, "batch_size": 64}
        return step_settings(config, epoch=epoch, progress=progress, **place).learning_rate

    assert rate(0.0, 0) == 0.01
    assert rate(0.25, 1) == rate(0.25, 6) == pytest.approx(0.01 * (0.75 * 0.99 + 0.01))
    assert rate(1.0, 3) == pytest.approx(0.0001)


def test_a_run_of_the_command_line(
    tmp_path: Path, shapes: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The deadline counts from the import of the package. Here it has passed, so one batch is trained."""
    architecture = f"--model.architecture={write_small_yaml(tmp_path, True)}"
    main(["fit", *options(shapes, architecture, "--deadline=0.1s")])
    assert "1/1" in capsys.readouterr().out
    assert len(rows(RUN)) == 1 and contents(RUN)["callbacks"]["Deadline"]["reached_s"] == 0.1
    assert yaml.safe_load((RUN / "config.yaml").read_text())["deadline"] == "0.1s"
    steps = contents(RUN)["global_step"]
    caplog.set_level(logging.INFO)
    main(["fit", f"--ckpt_path={RUN / 'checkpoints/last.ckpt'}"])
    assert "give a longer --deadline" in caplog.text
    assert contents(RUN)["global_step"] == steps
    with pytest.raises(SystemExit):
        main(["fit", *options(shapes, "--deadline=soon")])
    assert "deadline is 'soon'" in capsys.readouterr().err


def test_the_screen_shows_the_time_until_the_deadline() -> None:
    clock: Iterator[float] = iter([10.0, 70.0])
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        callbacks=[Deadline(100, 0.0, lambda: next(clock))],
    )  # fmt: skip
    assert [left_text(trainer, None) for _ in range(2)] == ["1:30", "0:30"]
