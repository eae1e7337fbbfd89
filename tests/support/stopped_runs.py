"""Short runs that are stopped at a certain place, and the one that is not."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.support.quiet import LOUD, QUIET
from yolo_lightning.__main__ import main

EPOCHS, BATCHES = 3, 5
PARTS = Path("runs/parts/version_0")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def options(shapes: Path, *more: str) -> list[str]:
    """Five batches of two pictures an epoch, of which mosaics draw from all before them."""
    return [
        "--data.root", str(shapes), "--data.image_size=64", "--data.batch_size=2", "--data.num_workers=0",
        "--model.compile=false", "--model.channels_last=true", "--trainer.precision=32-true",
        "--model.optimizer.nominal_batch_size=4", "--model.optimizer.warmup_epochs=0",
        "--trainer.accelerator=cpu", "--trainer.devices=1", f"--trainer.max_epochs={EPOCHS}",
        *QUIET, *more,
    ]  # fmt: skip


def signal_at(number: str, epoch: int, batch: int) -> list[str]:
    place = f"{{number: {number}, epoch: {epoch}, batch: {batch}}}"
    return [f"--trainer.callbacks=[{{class_path: tests.support.signals.SignalAt, init_args: {place}}}]"]


def stopped(*argv: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["fit", *argv])
    assert exit_.value.code == 75


@pytest.fixture(scope="module")
def never_stopped(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The run that is never stopped, made once for each set of options more."""

    @cache
    def run(*more: str) -> Path:
        folder = tmp_path_factory.mktemp("whole")
        main(["fit", *options(shapes, f"--runs_dir={folder}", *more)])
        return folder / "fit" / "version_0"

    return run


@pytest.fixture(scope="module")
def whole(never_stopped: Callable[..., Path]) -> Path:
    """The run that is never stopped. It draws all that it can, the others nothing: that changes nothing."""
    return never_stopped(*LOUD)
