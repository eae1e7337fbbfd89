"""Lightning's private names exist, and stand in one file."""

import ast
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader

from yolo_lightning.system import lightning_internals as internals

FILE = Path(internals.__file__)
PACKAGE = FILE.parents[1]
OWNERS: tuple[tuple[Callable[[Trainer], object], str], ...] = (
    (lambda trainer: trainer, "_val_check_time_interval _last_val_time _signal_connector"),
    (lambda trainer: trainer.lightning_module, "_trainer"),
    (lambda trainer: trainer.fit_loop, "_data_fetcher _can_stop_early"),
    (
        lambda trainer: trainer.fit_loop.epoch_loop,
        "_batches_that_stepped _should_check_val_fx _broadcast_sigterm_tensor",
    ),
    (lambda trainer: trainer, "_checkpoint_connector"),
    (lambda trainer: trainer.strategy, "_checkpoint_io"),
    (
        lambda _: ModelCheckpoint(),
        "_save_checkpoint _save_topk_checkpoint _monitor_candidates "
        "_last_global_step_saved _last_checkpoint_saved",
    ),
    (lambda _: EarlyStopping("loss"), "_validate_condition_metric _check_on_train_epoch_end"),
    (lambda _: LightningCLI, "_run_subcommand _parse_ckpt_path _prepare_subcommand_parser"),
    (lambda _: _ChildProcessObserver(0, []), "_child_processes"),
)
"""Private names that the file uses, and an object that has them."""
ALL = {name for _, names in OWNERS for name in names.split()}
KEYS = {
    "fit_loop", "epoch_progress", "epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress",
    "epoch_loop.state_dict", "combined_loader",
}  # fmt: skip
"""Keys of what Lightning saves of its loops."""


class Tiny(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        return self.layer(batch).sum()

    def validation_step(self, batch: torch.Tensor) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Loader(DataLoader[torch.Tensor]):
    def state_dict(self) -> dict[str, int]:
        return {"seen": 7}

    def load_state_dict(self, state: dict[str, int]) -> None:
        raise NotImplementedError


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """After an epoch of two batches; a validation is due after ten minutes."""
    trainer = Trainer(
        logger=False, accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, max_epochs=1, num_sanity_val_steps=0, val_check_interval="00:00:10:00",
        check_val_every_n_epoch=None, default_root_dir=tmp_path_factory.mktemp("run"),
    )  # fmt: skip
    loader = Loader(torch.zeros(2, 1))  # type: ignore[arg-type]
    trainer.fit(Tiny(), loader, DataLoader(torch.zeros(2, 1)))  # type: ignore[arg-type]
    return trainer


@pytest.mark.parametrize(("owner", "name"), [(owner, n) for owner, names in OWNERS for n in names.split()])
def test_a_name_exists(owner: Callable[[Trainer], object], name: str, trainer: Trainer) -> None:
    assert hasattr(owner(trainer), name)


def test_the_state_of_the_loops_is_read_and_changed(trainer: Trainer) -> None:
    trainer.save_checkpoint(path := Path(trainer.default_root_dir, "a.ckpt"))
    contents: dict[str, Any] = torch.load(path, weights_only=True)
    state = internals.LoopState(contents)
    assert state.epochs["current"]["processed"] == 1
    assert set(state.batches["current"]) == {"ready", "started", "processed", "completed"}
    assert set(state.validation_batches["total"]) == {"ready", "started", "processed", "completed"}
    assert state.loaders == [{"seen": 7}]
    assert state.logging_step == internals.logging_step(trainer) == 2
    state.logging_step = 5
    assert internals.LoopState(contents).logging_step == 5


def test_a_step_of_the_loggers_is_counted(trainer: Trainer) -> None:
    before = internals.logging_step(trainer)
    internals.advance_logging_step(trainer)
    assert internals.logging_step(trainer) == before + 1


def test_a_validation_by_the_clock_is_made_due(trainer: Trainer) -> None:
    assert internals.validates_by_clock(trainer)
    trainer.fit_loop.epoch_loop.batch_progress.is_last_batch = False
    assert not internals.is_validation_due(trainer)
    internals.make_timed_validation_due(trainer)
    assert internals.is_validation_due(trainer)


def test_the_end_of_a_child_does_not_kill_its_parent() -> None:
    parent = subprocess.Popen(["sleep", "60"])
    child = subprocess.Popen(["false"])
    observer = _ChildProcessObserver(parent.pid, [child], sleep_period=1)
    observer.start()
    internals.leave_children_alone()
    observer.join(30)
    assert child.wait() == 1 and parent.poll() is None
    parent.kill()
    parent.wait()


def private_names(source: str) -> set[str]:
    """Private attributes and methods in a file, of whatever object."""
    nodes = list(ast.walk(ast.parse(source)))
    found = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    found |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    return {name for name in found if re.match(r"_[a-z]", name)}


def test_the_list_of_names_is_complete() -> None:
    source = FILE.read_text()
    assert private_names(source) - {"_loop", "_do_nothing"} == ALL
    assert all(f'"{key}"' in source for key in KEYS)


def test_no_other_file_uses_them() -> None:
    keys = re.compile("|".join(f'"{re.escape(key)}"' for key in KEYS))
    found = {}
    for file in PACKAGE.rglob("*.py"):
        source = file.read_text()
        if file != FILE and (names := (private_names(source) & ALL) | set(keys.findall(source))):
            found[file.name] = names
    assert found == {}
