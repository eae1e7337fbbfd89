import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from yolo_lightning.__main__ import main
from yolo_lightning.cli import check_options
from yolo_lightning.data.synthetic import make_dataset
from yolo_lightning.performance.planner.batch import room
from yolo_lightning.performance.planner.step import PARTS


def test_a_plan_of_a_data_set_for_a_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_dataset(tmp_path / "set", train_images=12, val_images=4, image_size=64)
    main(["plan", "--data.root", str(root), "--data.image_size", "64", "--gpu", "GTX 1660 Ti", "--json"])
    found = json.loads(capsys.readouterr().out)
    memory = found["memory_gb"]
    assert set(memory) == {*PARTS, "peak"}
    assert memory["peak"] == pytest.approx(sum(memory[part] for part in PARTS), abs=1e-3)
    assert found["precision"] == "16-mixed"  # this card has no bfloat16
    assert memory["peak"] * 1e9 <= room(found["card_memory_gb"])
    assert found["suggested_batch_size"] == found["batch_size"] == 12  # all images
    assert found["largest_batch_size"] > 64
    assert 0 < found["images_per_second"]["low"] <= found["images_per_second"]["high"]
    assert found["epoch_seconds"]["low"] <= found["epoch_seconds"]["high"]


def test_a_plan_without_a_card_or_data_is_of_the_memory_alone(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--data.image_size", "64"])
    shown = capsys.readouterr().out
    assert "yolov5n, 64 px, bf16-mixed, batch 16" in shown
    assert "images/s" not in shown


def test_a_training_that_does_not_fit_has_no_speed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--data.image_size", "20000", "--gpu", "GTX 1660 Ti"])
    shown = capsys.readouterr().out
    assert "does not fit in 6.4 GB with a margin of 8%; largest batch: none" in shown
    assert "images/s" not in shown


def test_a_checkpoint_without_its_run_gives_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "moved.ckpt"
    checkpoint.touch()
    known = {"architecture": "yolov5s", "num_classes": 3}
    monkeypatch.setattr(check_options, "newest_whole", lambda path, _: path)
    resumed = SimpleNamespace(hyper_parameters=known, step=1)
    monkeypatch.setattr(check_options, "read_resumption", lambda _: resumed)
    command = ["plan", "--ckpt_path", str(checkpoint), "--data.image_size", "64", "--data.batch_size", "1"]
    main(command)
    assert "yolov5s, 64 px, bf16-mixed, batch 1" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*command, "--model.architecture", "yolov5x"])
    assert "holds a yolov5s, not a yolov5x" in capsys.readouterr().err


def test_a_size_may_be_given_with_a_comma(capsys: pytest.CaptureFixture[str]) -> None:
    main(["plan", "--data.image_size", "64,128", "--data.batch_size", "1", "--json"])
    assert json.loads(capsys.readouterr().out)["image_size"] == [64, 128]


def test_the_options_are_those_of_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("data: {image_size: [64, 128], batch_size: 4}\nmodel: {optimizer: {name: adamw}}\n")
    main(["plan", "--config", str(config), "--trainer.precision", "32", "--json"])
    adam = json.loads(capsys.readouterr().out)
    assert (adam["image_size"], adam["batch_size"], adam["precision"]) == ([64, 128], 4, "32-true")
    main(["plan", "--config", str(config), "--model.optimizer.name", "sgd", "--json"])
    sgd = json.loads(capsys.readouterr().out)
    assert adam["memory_gb"]["optimizer"] == pytest.approx(2 * sgd["memory_gb"]["optimizer"], rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.image_size", "100"], "is not a multiple of 32; use 96"),
        (["--model.architecture", "yolov5n6", "--data.image_size", "672"], "not a multiple of 64; use 640"),
        (["--data.image_size", "384x640"], "'384x640' is no size; give 640 or, of height and width, 384,640"),
        (["--data.batch_size", "0"], "data.batch_size 0 is too small; use 1 or more"),
        (["--data.batch_size", "1000000000000"], "images of 640 px are more than any memory holds"),
        (["--model.num_classes", "0"], "model.num_classes is 0; give 1 or more"),
        (["--trainer.precision", "64"], "trainer.precision 64 is not supported; use 32-true, bf16-mixed"),
        (["--data.batch_sise", "8"], "did you mean --data.batch_size?"),
        (["--gpu", "RTX 9999"], "is not in the table of cards"),
        (["--model.architecture", "yolov9"], "yolov9' is not known"),
    ],
)
def test_wrong_options_are_one_sentence(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        main(["plan", *options])
    assert message in capsys.readouterr().err
