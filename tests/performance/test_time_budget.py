import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from yolo_lightning.performance.time_budget import PHASES, PhaseClock, TimeBudget, compile_seconds
from yolo_lightning.runs.checkpoint_io import RunCheckpointIO
from yolo_lightning.system.background import BackgroundQueue


class Hand:
    """A clock that is moved by hand."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_each_moment_goes_to_one_phase() -> None:
    hand = Hand()
    clock = PhaseClock("a", now=hand)
    hand.now += 3
    clock.enter("b")
    hand.now += 4
    with clock.during("c"):
        hand.now += 5
    hand.now += 6
    clock.enter("a")
    hand.now += 7
    assert clock.seconds() == {"a": 10, "b": 10, "c": 5}
    assert clock.elapsed_s == 25
    clock.reassign("c", "b")
    assert clock.seconds() == {"a": 10, "b": 15}


def test_a_phase_within_ends_with_an_error_in_it() -> None:
    hand = Hand()
    clock = PhaseClock("a", now=hand)
    with pytest.raises(ZeroDivisionError), clock.during("b"):
        hand.now += 1
        raise ZeroDivisionError
    hand.now += 2
    assert clock.seconds() == {"b": 1, "a": 2}


def test_a_counter_takes_its_time_out_of_the_phase_it_grew_in() -> None:
    hand, compiled = Hand(), [40.0]
    clock = PhaseClock("step", now=hand, counters={"compile": lambda: compiled[0]})
    hand.now += 10
    compiled[0] += 7
    assert clock.seconds() == {"compile": 7, "step": 3}
    hand.now += 1
    compiled[0] = 0.5  # set back, and half a second since
    clock.enter("wait")
    assert clock.seconds() == {"compile": 7.5, "step": 3.5, "wait": 0}
    hand.now += 1
    compiled[0] += 5  # another thread's: never more than there was time
    assert clock.seconds() == {"compile": 8.5, "step": 3.5, "wait": 0}


def test_what_a_counter_had_when_the_clock_began_counts_only_from_the_same_start() -> None:
    hand = Hand(100.0)
    since_start = PhaseClock("start", 60.0, {"compile": lambda: 30.0}, hand)
    assert since_start.seconds() == {"compile": 30, "start": 10}


def test_the_wall_time_begins_with_the_program_and_not_with_the_script_that_starts_it() -> None:
    code = (
        "import time; before = time.monotonic()\n"
        "from yolo_lightning.system.start_time import program_began_s; print(before, program_began_s())"
    )
    script = f"sleep 0.3; exec '{sys.executable}' -c '{code}'"
    began = time.monotonic()
    told = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    before, program_began = map(float, told.split())  # one clock in all processes
    assert began + 0.3 <= before <= program_began <= time.monotonic()


def test_the_package_imports_its_start_time_first() -> None:
    code = "import sys, yolo_lightning; print([n for n in sys.modules if n.startswith('yolo_lightning.')])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == "['yolo_lightning.system', 'yolo_lightning.system.start_time']"


def test_the_time_of_compiling_is_torchs_own() -> None:
    before = compile_seconds()

    def function(x: Tensor) -> Tensor:
        return x + 1

    begin = time.perf_counter()
    torch.compile(function, backend="eager", fullgraph=True)(torch.ones(2))
    assert 0 < compile_seconds() - before < time.perf_counter() - begin


class Slow(Dataset[Tensor]):
    """Each item takes a moment."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Tensor:
        time.sleep(self.seconds)
        return torch.zeros(1)


class Model(LightningModule):
    """Steps and validations of known length."""

    def __init__(self, step_s: float = 0.0, validation_s: float = 0.0) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.step_s, self.validation_s = step_s, validation_s

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        time.sleep(self.step_s)
        return self.layer(batch).sum()

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        time.sleep(self.validation_s)


class Drawing(Callback):
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        time.sleep(0.05)


class SlowIO(RunCheckpointIO):
    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        time.sleep(0.05)
        super().save_checkpoint(checkpoint, path, storage_options)


def fit(
    folder: Path,
    epochs: int = 2,
    model: Model | None = None,
    wait_s: float = 0.0,
    drawing: Sequence[Callback] = (),
    more: Sequence[Callback] = (),
    ckpt_path: Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    budget = TimeBudget(folder, BackgroundQueue(), drawing)
    keeping = ModelCheckpoint(dirpath=folder, filename="last", enable_version_counter=False)
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=epochs, logger=False, default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False, plugins=[SlowIO()],
        callbacks=[*drawing, *more, budget, keeping], **options,
    )  # fmt: skip
    validation = DataLoader(Slow(0.0), batch_size=1)
    trainer.fit(model or Model(), DataLoader(Slow(wait_s), batch_size=1), validation, ckpt_path=ckpt_path)
    written: dict[str, Any] = json.loads((folder / "time_budget.json").read_text())
    assert list(written["seconds"]) == list(PHASES)
    assert sum(written["seconds"].values()) == pytest.approx(written["wall_seconds"], abs=1e-3)
    return written


def test_each_second_goes_where_it_belongs(tmp_path: Path) -> None:
    begin = time.monotonic()
    model = Model(step_s=0.04, validation_s=0.03)
    found = fit(tmp_path, 2, model, wait_s=0.02, drawing=[Drawing()], num_sanity_val_steps=0)
    elapsed = time.monotonic() - begin
    seconds = found["seconds"]
    assert found["wall_seconds"] <= elapsed
    assert found["processes"] == 1
    # Lower bounds, which a busy machine does not break: what slept in a phase is in it, and nowhere else.
    assert seconds["step"] >= 6 * 0.04
    assert seconds["validation"] >= 6 * 0.03
    assert seconds["data_wait"] >= 5 * 0.02  # the first batch belongs to the start-up
    assert seconds["start_up"] >= 0.02
    assert seconds["checkpoints"] >= 2 * 0.05
    assert seconds["drawing"] >= 2 * 0.05


def test_a_validation_within_an_epoch_is_no_wait(tmp_path: Path) -> None:
    class Order(Callback):
        phases: list[str] = []  # noqa: RUF012

        def __init__(self) -> None:
            self.budget: TimeBudget

        def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            [self.budget] = [c for c in trainer.callbacks if isinstance(c, TimeBudget)]  # type: ignore[attr-defined]

    class Reading(Model):
        """Writes down which phase the clock is in, from within."""

        def __init__(self, order: Order) -> None:
            super().__init__()
            self.order, self.seen = order, []  # type: ignore[var-annotated]

        def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
            self.seen.append(("train", self.order.budget._clock.phase))
            return super().training_step(batch, batch_index)

        def validation_step(self, batch: Tensor, batch_index: int) -> None:
            self.seen.append(("validate", self.order.budget._clock.phase))

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            self.seen.append(("save", self.order.budget._clock.phase))

    order = Order()
    model = Reading(order)
    fit(tmp_path, 1, model, more=[order], val_check_interval=1, num_sanity_val_steps=1)
    assert set(model.seen) == {
        ("train", "step"),
        ("validate", "validation"),
        ("validate", "start_up"),  # the first look
        ("save", "checkpoints"),
    }


def test_a_run_that_resumes_adds_the_parts_before(tmp_path: Path) -> None:
    first = fit(tmp_path, 1, Model(step_s=0.1))
    second = fit(tmp_path, 2, Model(), ckpt_path=tmp_path / "last.ckpt")
    assert second["processes"] == 2
    # The parts before as the checkpoint knows them, which was saved before the end of that process.
    assert first["seconds"]["step"] <= second["seconds"]["step"]
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["TimeBudget"]
    assert saved["processes"] == 2
    assert saved["seconds"]["step"] >= 3 * 0.1
    assert second["wall_seconds"] > saved["wall_seconds"] > 0.3


class Stops(Callback):
    def __init__(self, error: type[BaseException], hook: str = "on_train_batch_end") -> None:
        def stop(trainer: Trainer, *_: Any) -> None:
            if hook != "on_train_batch_end" or trainer.current_epoch == 1:
                raise error

        setattr(self, hook, stop)


@pytest.mark.parametrize("error", [SystemExit, RuntimeError])
def test_a_run_that_ends_early_is_accounted_for(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        fit(tmp_path, 3, Model(step_s=0.05), more=[Stops(error)])
    written = json.loads((tmp_path / "time_budget.json").read_text())
    assert written["seconds"]["step"] >= 4 * 0.05
    assert sum(written["seconds"].values()) == pytest.approx(written["wall_seconds"], abs=1e-3)


def test_a_resumption_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    fit(tmp_path, 1)
    before = (tmp_path / "time_budget.json").read_bytes()
    with pytest.raises(RuntimeError):
        fit(tmp_path, 2, ckpt_path=tmp_path / "last.ckpt", more=[Stops(RuntimeError, "on_fit_start")])
    assert (tmp_path / "time_budget.json").read_bytes() == before


def test_a_file_that_cannot_be_written_ends_no_training(tmp_path: Path) -> None:
    (tmp_path / "time_budget.json").mkdir()
    with pytest.warns(UserWarning, match=r"time_budget\.json"), pytest.raises(IsADirectoryError):
        fit(tmp_path, 1)  # trains to its end; it is our reading that fails
    assert (tmp_path / "last.ckpt").is_file()
