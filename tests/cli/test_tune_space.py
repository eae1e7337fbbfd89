from __future__ import annotations

from pathlib import Path

import pytest
from jsonargparse import Namespace

from yolo_lightning.cli.launcher import DryCLI, launch
from yolo_lightning.cli.tune_space import Values, search_space
from yolo_lightning.errors import InputError


@pytest.fixture(scope="module")
def config(shapes: Path) -> Namespace:
    options = ["--data.root", str(shapes), "--data.image_size", "64", "--data.cache", "none"]
    return launch(DryCLI, ["fit", *options, "--trainer.accelerator", "cpu"]).config["fit"]


def test_the_classic_ranges_hold_the_defaults(config: Namespace) -> None:
    space = search_space(config, None)
    assert space["model.optimizer.learning_rate"] == Values(0.01, (), 1e-5, 0.1, log=True)
    assert space["model.loss.box_gain"] == Values(0.05, (), 0.02, 0.2)
    assert space["model.augmentation.mixup"] == Values(0.0, (), 0.0, 1.0)
    assert len(space) == 23 and not any("anchor_free" in name for name in space)
    assert all(values.low <= values.start <= values.high for values in space.values())


def test_a_u_model_has_the_gains_of_its_own_loss(config: Namespace) -> None:
    anchor_free = config.clone()
    anchor_free["model.architecture"] = "yolov5nu"
    space = search_space(anchor_free, None)
    assert [name for name in space if "loss" in name] == [
        f"model.anchor_free_loss.{name}" for name in ("box_gain", "class_gain", "dfl_gain")
    ]


def test_a_space_of_the_user(config: Namespace, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(
        "model.optimizer.learning_rate: [2e-2, 0.1, log]\nmodel.optimizer.name: {choices: [adamw]}\n"
        "model.augmentation.close_mosaic: [0, 3]\n"
    )
    assert search_space(config, str(file)) == {
        "model.optimizer.learning_rate": Values(0.01, (), 0.01, 0.1, log=True),  # widened to the default
        "model.optimizer.name": Values("sgd", ("sgd", "adamw")),
        "model.augmentation.close_mosaic": Values(0, (), 0.0, 3.0),
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no options; write lines such as"),
        ("a: [", "cannot be read"),
        (
            "model.optimizer.momentun: [0, 1]",
            "momentun is no option of fit; did you mean model.optimizer.momentum",
        ),
        ("7: [0, 1]", "7 is no option of fit"),
        ("model.optimizer.momentum: [1, 0]", r"momentum is \[1, 0\]; write lines such as"),
        ("model.optimizer.momentum: 0.9", "momentum is 0.9; write lines such as"),
        ("model.optimizer.momentum: {low: 0}", "momentum is {'low': 0}; write lines such as"),
        ("model.optimizer.momentum: [0, 1, log]", "write lines such as"),
        ("model.optimizer.momentum: [0, 1, 2]", "write lines such as"),
        ("model.optimizer.name: [0, 1]", "is sgd without the search, in no range; give it as choices"),
        ("model.augmentation.mixup: [0.1, 1, log]", "is 0.0 without the search, in no range"),
    ],
)
def test_wrong_spaces(config: Namespace, tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=said):
        search_space(config, str(file))
