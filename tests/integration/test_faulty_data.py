"""Whole runs on a data set of which a tenth is wrong, in every way that there is."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.support.faulty_data import YOLO_FAULTS, plant_in_yolo
from tests.support.processes import run
from tests.support.small_network import write_small_yaml

EPOCHS = 2


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """A data set of JPEGs, and the images that are wrong: as planted, and two that are truncated."""
    root = tmp_path_factory.mktemp("faulty")
    wrong = set(plant_in_yolo(root, 10 * len(YOLO_FAULTS) + 10, suffix=".jpg"))
    for split in ("train", "val"):
        path = root / "images" / split / f"{split}98.jpg"
        path.write_bytes(path.read_bytes()[:-400])
        wrong.add(str(path))
    return root, wrong


def fit(root: Path, runs: Path, *options: str) -> tuple[int | None, str]:
    """Status and output of a short training."""
    [status], written = run([
        "fit", f"--data.root={root}", "--data.image_size=64", "--data.batch_size=8", "--data.num_workers=0",
        f"--model.architecture={write_small_yaml(runs, True)}", "--model.weights=null",
        "--model.compile=false",
        "--trainer.accelerator=cpu", "--trainer.devices=1", f"--trainer.max_epochs={EPOCHS}",
        "--trainer.precision=32-true", f"--runs_dir={runs}", *options,
    ])  # fmt: skip
    return status, written


def test_skip_trains_to_the_end_and_names_each_image(faulty: tuple[Path, set[str]], tmp_path: Path) -> None:
    root, wrong = faulty
    status, written = fit(root, tmp_path, "--data.on_error=skip")
    assert status == 0, written[-3000:]
    with (tmp_path / "fit/version_0/metrics.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == EPOCHS
    assert all(Path(image).stem in written for image in wrong)
    assert written.count(f"images with errors: {len(wrong) // 2}\n") == 2


def test_raise_lists_all_and_trains_nothing(faulty: tuple[Path, set[str]], tmp_path: Path) -> None:
    root, wrong = faulty
    status, written = fit(root, tmp_path)
    assert status == 2
    assert all(Path(image).stem in written for image in wrong)
    (sentence,) = [
        line for line in written.splitlines() if line.startswith("error: ") and " errors (" in line
    ]
    assert f"in {len(wrong)} images" in sentence and "--data.on_error skip" in sentence
    assert not list(tmp_path.glob("fit/*"))
