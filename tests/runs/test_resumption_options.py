"""Runs with options that change what a batch is go on exactly, too, if they are stopped within an epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.run_comparison import assert_equal_runs, contents
from tests.support.stopped_runs import PARTS, options, signal_at, stopped
from tests.support.stopped_runs import in_an_empty_folder as in_an_empty_folder
from tests.support.stopped_runs import never_stopped as never_stopped
from tests.support.tiny_data import write_image, write_yolo
from yolo_lightning.__main__ import main

VARIED = (
    "--model.augmentation.multi_scale=0.5", "--model.augmentation.cutmix=0.5", "--model.augmentation.bgr=0.5",
    "--model.loss.class_weight_power=0.5", "--data.fraction=0.9",
)  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five wide and five tall images to train on."""
    root, label = tmp_path_factory.mktemp("photos"), "0 0.5 0.5 0.4 0.4\n"
    write_yolo(root, {f"{i}": label for i in range(10)})
    for i in range(5):
        write_image(root / "images/train" / f"{i}.png", 60, 30, seed=i)
    write_yolo(root, {"a": label}, split="val")
    return root


@pytest.mark.parametrize("more", [VARIED, ("--data.image_weights=true", "--data.num_workers=1")])
def test_a_run_that_is_stopped_ends_as_one_that_is_not(
    more: tuple[str, ...], shapes: Path, never_stopped: Callable[..., Path]
) -> None:
    stopped(*options(shapes, "--run_name=parts", *signal_at("SIGTERM", 1, 2), *more))
    main(["fit", "--ckpt_path=last", "--run_name=parts", "--trainer.callbacks=null"])
    whole = never_stopped(*more)
    assert_equal_runs(whole, PARTS)
    if "--data.image_weights=true" in more:
        saved = contents(PARTS)["DetectionDataModule"]["class_ap"]
        assert [first for first, _ in saved] == [2, 3]
        assert str(saved) == str(
            contents(whole)["DetectionDataModule"]["class_ap"]
        )  # NaN is not equal to NaN


def test_rectangles(photos: Path, never_stopped: Callable[..., Path]) -> None:
    more = [f"--data.root={photos}", "--data.rect=true"]
    stopped(*options(photos, "--run_name=parts", *signal_at("SIGTERM", 1, 2), *more))
    main(["fit", "--ckpt_path=last", "--run_name=parts", "--trainer.callbacks=null"])
    assert_equal_runs(never_stopped(*more), PARTS)
