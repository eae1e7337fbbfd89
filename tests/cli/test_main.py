import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningArgumentParser

from tests.support.fit_parser import fit_parser as fit_parser
from tests.support.quiet import QUIET
from yolo_lightning import YOLOv5
from yolo_lightning.__main__ import main
from yolo_lightning.cli.command_parser import SUBCOMMANDS
from yolo_lightning.cli.main import COMMANDS

CONFIGS = Path(__file__).parents[2] / "configs"
ON_CPU = [
    "--data.image_size=64", "--data.batch_size=4", "--data.num_workers=0", "--model.compile=false",
    "--trainer.accelerator=cpu", "--trainer.devices=1",
]  # fmt: skip
"""Of a run that takes seconds, all else as by default: it draws."""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def small(*options: str) -> list[str]:
    """Options of a run in fp32 that does not draw."""
    return [*ON_CPU, "--trainer.precision=32-true", "--model.channels_last=true", *QUIET, *options]


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What the command line says when it refuses: one sentence, and no run left behind."""
    with pytest.raises(SystemExit) as exit_:
        main(list(argv))
    assert exit_.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert not list(Path("runs").glob("*/*"))
    return lines[0]


@pytest.mark.parametrize(
    "config", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS))
)
def test_every_shipped_config_is_valid_and_says_how_to_use_it(
    config: Path, fit_parser: LightningArgumentParser
) -> None:
    parsed = fit_parser.parse_args(["--config", str(config)]).as_dict()
    for section, values in yaml.safe_load(config.read_text()).items():
        assert contains(parsed[section], values)
    comments = config.read_text().split("\n\n")[0]
    assert f"--config {config.relative_to(CONFIGS.parent)}" in comments


def contains(whole: Any, part: Any) -> bool:
    if isinstance(part, dict):
        return all(contains(whole[key], value) for key, value in part.items())
    return bool(whole == part)


def test_configs_compose_and_options_come_last(capsys: pytest.CaptureFixture[str]) -> None:
    configs = [f"--config={CONFIGS / name}" for name in ("trainer/cpu.yaml", "data/small_images.yaml")]
    with pytest.raises(SystemExit):
        main(["fit", *configs, "--data.image_size=416", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    found = (printed["trainer"]["accelerator"], printed["data"]["batch_size"], printed["data"]["image_size"])
    assert found == ("cpu", 16, 416)


def weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Averaged and live weights, and the optimizer's state, of a checkpoint."""
    checkpoint = torch.load(path, weights_only=True)
    tensors = {
        **checkpoint["state_dict"],
        **{f"live.{k}": v for k, v in checkpoint["live_state_dict"].items()},
    }
    return tensors, checkpoint["optimizer_states"][0]["state"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_gives_the_weights_of_one_that_was_never_stopped(shapes: Path, workers: int) -> None:
    # Workers fetch ahead, so that they must know from the start which epoch it is.
    options = small("--data.root", str(shapes), "--model.optimizer.schedule_epochs=2")
    options.append(f"--data.num_workers={workers}")
    main(["fit", *options, "--trainer.max_epochs=2", "--run_name=whole"])
    main(["fit", *options, "--trainer.max_epochs=1", "--run_name=parts"])
    main(["fit", "--ckpt_path=last", "--run_name=parts", "--trainer.max_epochs=2"])
    whole, parts = Path("runs/whole/version_0"), Path("runs/parts/version_0")
    (tensors, optimizer), (other_tensors, other_optimizer) = (
        weights(run / "checkpoints/last.ckpt") for run in (whole, parts)
    )
    assert tensors.keys() == other_tensors.keys()
    assert all(torch.equal(tensors[name], other_tensors[name]) for name in tensors)
    assert all(
        torch.equal(optimizer[i]["momentum_buffer"], other_optimizer[i]["momentum_buffer"]) for i in optimizer
    )
    assert not list(Path("runs/parts").glob("version_1"))
    columns = [line.split(",")[:8] for line in (whole / "metrics.csv").read_text().splitlines()]
    assert columns == [line.split(",")[:8] for line in (parts / "metrics.csv").read_text().splitlines()]
    assert len(columns) == 3


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two epochs, as by default."""
    runs = tmp_path_factory.mktemp("cli")
    main(["fit", *ON_CPU, "--data.root", str(shapes), "--trainer.max_epochs=2", f"--runs_dir={runs}"])
    return runs / "fit" / "version_0"


def test_a_run_leaves_all_that_it_should(run: Path, shapes: Path) -> None:
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    expected = {"config.yaml", "environment.json", "metrics.csv", "summary.json"}
    assert expected | {"checkpoints/best.ckpt", "checkpoints/last.ckpt"} <= files
    assert any("tfevents" in name for name in files)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["data"]["root"] == str(shapes)
    assert config["model"]["num_classes"] == 5
    assert len(config["model"]["class_names"]) == 5
    summary = json.loads((run / "summary.json").read_text())
    assert summary["epochs"] == 2
    assert summary["checkpoints"] == {
        name: str(run / "checkpoints" / f"{name}.ckpt") for name in ("best", "last")
    }
    assert {"epoch", "val/map", "val/map_50"} <= summary["best"].keys()
    assert summary["images_per_second"] > 0 and summary["wall_seconds"] > 0


def test_the_saved_config_has_all_options_but_those_of_one_start(
    run: Path, fit_parser: LightningArgumentParser
) -> None:
    saved = yaml.safe_load((run / "config.yaml").read_text())
    options = vars(fit_parser.get_defaults())
    assert options.keys() - saved.keys() == {
        "config", "ckpt_path", "trust_config", "profile", "weights_only"
    }  # fmt: skip
    assert saved.keys() <= options.keys()


def test_the_saved_config_runs_again(run: Path) -> None:
    main(["fit", "--config", str(run / "config.yaml"), "--runs_dir=runs", "--trainer.max_epochs=1"])
    assert Path("runs/fit/version_0/checkpoints/last.ckpt").is_file()


def test_validate_gives_the_figures_of_the_fit(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["validate", "--ckpt_path", str(run / "checkpoints/best.ckpt"), "--runs_dir=runs"])
    best = json.loads((run / "summary.json").read_text())["best"]["val/map_50"]
    assert f"{best:.4f}" in capsys.readouterr().out


def test_predict_needs_a_checkpoint_and_pictures_alone(run: Path, shapes: Path) -> None:
    main([
        "predict", "--ckpt_path", str(run / "checkpoints/last.ckpt"), "--runs_dir=runs",
        "--data.predict_source", str(shapes / "images" / "val"), "--model.score_threshold=0.0001",
    ])  # fmt: skip
    results = json.loads(Path("runs/predict/version_0/predictions.json").read_text())
    assert results and {"image_id", "file_name", "category_id", "name", "bbox", "score"} <= results[0].keys()
    pictures = list(Path("runs/predict/version_0/images").iterdir())
    assert len(pictures) == 5


def test_test_says_which_split_is_missing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "test", "--ckpt_path", str(run / "checkpoints/last.ckpt"), "--runs_dir=runs")
    assert "test" in message and "annotations" in message


def falsify_live_weights(checkpoint: Path, copy: Path) -> Path:
    """A copy in which training would go on from other weights than those that are evaluated."""
    content = torch.load(checkpoint, weights_only=True)
    live = content["live_state_dict"]
    content["live_state_dict"] = {k: v + 1 if v.is_floating_point() else v for k, v in live.items()}
    torch.save(content, copy)
    return copy


def test_the_average_is_evaluated_not_the_live_weights(
    run: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = run / "checkpoints/best.ckpt"
    false = falsify_live_weights(best, tmp_path / "false.ckpt")
    source = ["--data.predict_source", str(shapes / "images" / "val"), "--model.score_threshold=0.0001"]
    for checkpoint in (best, false):
        main(["predict", "--ckpt_path", str(checkpoint), "--runs_dir=runs", *small(*source)])
    first, second = (Path(f"runs/predict/version_{k}/predictions.json").read_text() for k in (0, 1))
    assert first == second
    capsys.readouterr()
    tables = []
    for checkpoint in (best, false):
        options = small("--data.root", str(shapes), "--runs_dir=runs")
        main(["validate", "--ckpt_path", str(checkpoint), *options])
        tables.append([line for line in capsys.readouterr().out.splitlines() if "map" in line.lower()])
    assert tables[0] == tables[1] and tables[0]


def test_a_data_set_of_one_class_trains(shapes: Path, tmp_path: Path) -> None:
    root = shutil.copytree(shapes, tmp_path / "one")
    for path in (root / "annotations").iterdir():
        document = json.loads(path.read_text())
        document["categories"] = document["categories"][:1]
        category = document["categories"][0]["id"]
        document["annotations"] = [{**a, "category_id": category} for a in document["annotations"]]
        path.write_text(json.dumps(document))
    main(["fit", *small("--data.root", str(root), "--trainer.max_epochs=1")])
    assert "val/map" in json.loads(Path("runs/fit/version_0/summary.json").read_text())["last"]


def test_every_epoch_is_saved_also_without_a_step(shapes: Path) -> None:
    # 3 batches an epoch, 16 batches a step: the first step comes in epoch 5.
    options = small("--data.root", str(shapes), "--model.optimizer.warmup_epochs=0")
    main(["fit", *options, "--trainer.max_epochs=2"])
    checkpoint = torch.load(Path("runs/fit/version_0/checkpoints/last.ckpt"), weights_only=True)
    assert (checkpoint["epoch"], checkpoint["global_step"]) == (1, 0)
    assert checkpoint["accumulation"]["images"] == 24


def test_an_epoch_that_a_limit_cut_short_is_not_saved_as_whole(shapes: Path) -> None:
    options = small("--data.root", str(shapes), "--model.optimizer.nominal_batch_size=4")
    main(["fit", *options, "--trainer.max_steps=4"])  # one batch into the second epoch
    checkpoint = torch.load(Path("runs/fit/version_0/checkpoints/last.ckpt"), weights_only=True)
    assert checkpoint["global_step"] == 4
    progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
    assert (progress["started"], progress["processed"]) == (2, 1)


def test_resuming_for_fewer_epochs_is_refused_and_changes_nothing(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "config.yaml").read_text()
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--ckpt_path", str(run / "checkpoints/last.ckpt"), "--trainer.max_epochs=1"])
    assert exit_.value.code == 2
    assert "for 2 epochs already" in capsys.readouterr().err
    assert (run / "config.yaml").read_text() == before


def test_a_broken_test_split_does_not_stop_a_fit(shapes: Path, tmp_path: Path) -> None:
    root = shutil.copytree(shapes, tmp_path / "broken_test")
    (root / "annotations" / "instances_test.json").write_text("{")
    limits = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1"]
    main(["fit", *small("--data.root", str(root), *limits)])
    assert Path("runs/fit/version_0/checkpoints/last.ckpt").is_file()


def test_paths_are_kept_absolute(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(shapes.parent))
    annotations = [
        f"--data.{s}_annotations=~/shapes/annotations/instances_{s}.json" for s in ("train", "val")
    ]
    images = [f"--data.{split}_images=~/shapes/images/{split}" for split in ("train", "val")]
    main(["fit", *small(*annotations, *images, "--trainer.max_epochs=1", "--trainer.limit_train_batches=1")])
    saved = yaml.safe_load(Path("runs/fit/version_0/config.yaml").read_text())
    assert saved["data"]["val_images"] == str(shapes / "images" / "val")
    assert saved["runs_dir"] == str(tmp_path / "runs")


def test_without_a_bar(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limits = [
        "--trainer.max_epochs=1",
        "--trainer.limit_train_batches=1",
        "--trainer.enable_progress_bar=false",
    ]
    main(["fit", *small("--data.root", str(shapes), *limits)])
    assert Path("runs/fit/version_0/summary.json").is_file()


# Wrong input


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("--trainer.accumulate_grad_batches=2", "nominal_batch_size"),
        ("--trainer.gradient_clip_val=1", "gradient_clip_norm"),
        ("--trainer.precision=64-true", "32-true"),
        ("--trainer.barebones=true", "barebones"),
        ("--seed_everything=-3", "0 or more"),
        ("--model.score_threshold=7", "from 0 to 1"),
        ("--ema.decay=1.5", "from 0 to 1"),
        ("--ema.ramp_updates=0", "above 0"),
        ("--model.optimizer.learning_rat=64", "did you mean --model.optimizer.learning_rate?"),
        ("--data.batch=4", "did you mean --data."),
    ],
)
def test_options_that_cannot_be_had(
    shapes: Path, capsys: pytest.CaptureFixture[str], option: str, remedy: str
) -> None:
    assert remedy in refused(capsys, "fit", *small("--data.root", str(shapes), option))


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        (["--trainer.devices=2", "--trainer.val_check_interval=00:00:10:00"], "number of batches or a share"),
        (["--trainer.num_nodes=2"], "give --trainer.num_nodes 1"),
        (["--trainer.devices=6"], "val has 5 images for 6 processes; use at most 5"),
    ],
)
def test_processes_that_would_wait_for_one_another(
    shapes: Path, capsys: pytest.CaptureFixture[str], options: list[str], remedy: str
) -> None:
    assert remedy in refused(capsys, "fit", *small("--data.root", str(shapes), *options))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = small("--data.root", str(shapes), "--trainer.accelerator=gpu")
    assert "gpu" in refused(capsys, "fit", *options).lower()


def test_missing_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere: the folder does not exist" in refused(capsys, "fit", "--data.root=nowhere")


def test_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--data.root" in refused(capsys, "fit")


def test_misspelt_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean --data.root?" in refused(capsys, "fit", "--data.rot=x")


def test_misspelt_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no command 'fitt'; did you mean fit?" in refused(capsys, "fitt")


def test_value_of_the_wrong_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert "data.batch_size" in refused(capsys, "fit", "--data.batch_size=many")


def test_value_out_of_range(capsys: pytest.CaptureFixture[str], shapes: Path) -> None:
    message = refused(capsys, "fit", *small("--data.root", str(shapes), "--model.optimizer.momentum=2"))
    assert "model.optimizer.momentum" in message


def test_misspelt_key_in_a_config(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("data:\n  rot: x\n")
    assert "rot" in refused(capsys, "fit", "--config=my.yaml")


def test_unknown_architecture(capsys: pytest.CaptureFixture[str], shapes: Path) -> None:
    message = refused(capsys, "fit", *small("--data.root", str(shapes), "--model.architecture=yolov9"))
    assert "yolov9" in message and "yolov5n|s|m|l|x" in message


def test_broken_json(capsys: pytest.CaptureFixture[str], shapes: Path, tmp_path: Path) -> None:
    root = shutil.copytree(shapes, tmp_path / "broken")
    for split in ("train", "val"):
        path = root / "annotations" / f"instances_{split}.json"
        path.write_text('{\n "images": [],\n "annotations": oops\n}')
    message = refused(capsys, "fit", *small("--data.root", str(root)))
    assert "instances_train.json:3: broken JSON" in message


def test_unreadable_image(capsys: pytest.CaptureFixture[str], shapes: Path, tmp_path: Path) -> None:
    root = shutil.copytree(shapes, tmp_path / "unreadable")
    picture = sorted((root / "images" / "val").iterdir())[0]
    picture.write_bytes(b"not a picture")
    with pytest.raises(SystemExit):
        main(["fit", *small("--data.root", str(root), "--trainer.max_epochs=1")])
    assert f"error: {picture}: not a readable image" in capsys.readouterr().err


@pytest.fixture
def weights_of_two(tmp_path: Path) -> Path:
    """Weights of a network with two classes, and a folder ``in`` with one good picture."""
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), np.zeros((40, 40, 3), np.uint8))
    module = YOLOv5(num_classes=2, compile=False)
    module.configure_model()
    torch.save(module.network.state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def predict(weights: Path, workers: int) -> None:
    main([
        "predict", f"--model.weights={weights}", "--data.predict_source=in", f"--data.num_workers={workers}",
        "--data.image_size=64", "--model.num_classes=2", "--trainer.accelerator=cpu",
        "--model.score_threshold=0.0001",
    ])  # fmt: skip


@pytest.mark.parametrize("workers", [0, 1])
def test_prediction_leaves_out_images_that_cannot_be_read(
    capsys: pytest.CaptureFixture[str], weights_of_two: Path, workers: int
) -> None:
    torn = Path("in/a.png").read_bytes()[:60]
    Path("in/b.png").write_bytes(torn)
    Path("in/c.jpg").write_text("no picture")
    predict(weights_of_two, workers)
    printed = capsys.readouterr().out
    assert "left out     2 of 3 images" in printed
    assert "b.png: the image is truncated" in printed and "c.jpg: not a readable image" in printed
    found = json.loads(Path("runs/predict/version_0/predictions.json").read_text())
    assert {detection["file_name"] for detection in found} == {"a.png"}
    assert [path.name for path in Path("runs/predict/version_0/images").iterdir()] == ["a.png"]


def test_prediction_without_a_readable_image_is_an_error(
    capsys: pytest.CaptureFixture[str], weights_of_two: Path
) -> None:
    Path("in/a.png").write_text("no picture")
    with pytest.raises(SystemExit):
        predict(weights_of_two, 0)
    message = capsys.readouterr().err
    assert "none of 1 images can be read" in message and "a.png: not a readable image" in message
    assert not Path("runs/predict/version_0").exists()


def test_weights_of_other_classes_are_trained_but_not_judged(
    capsys: pytest.CaptureFixture[str], weights_of_two: Path, shapes: Path
) -> None:
    message = refused(capsys, "validate", "--data.root", str(shapes), f"--model.weights={weights_of_two}")
    assert f"{weights_of_two}: has 2 classes but {shapes} has 5, and nothing is trained here" in message


def test_a_validation_without_labels_is_announced(
    capsys: pytest.CaptureFixture[str], shapes: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(shapes, tmp_path / "unlabelled"))
    annotations = root / "annotations" / "instances_val.json"
    annotations.write_text(json.dumps(json.loads(annotations.read_text()) | {"annotations": []}))
    with pytest.warns(UserWarning, match="val has no label, so no metric can be computed"):
        main(["fit", *small("--data.root", str(root), "--trainer.max_epochs=1")])
    assert "best mAP" not in capsys.readouterr().out


def test_checkpoint_of_another_architecture(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = str(run / "checkpoints/last.ckpt")
    message = refused(
        capsys, "validate", "--ckpt_path", checkpoint, "--model.architecture=yolov5s", "--runs_dir=runs"
    )
    assert "holds a yolov5n, not a yolov5s" in message
    message = refused(
        capsys,
        "fit",
        *small("--data.root", str(run.parent)),
        "--model.weights",
        checkpoint,
        "--model.architecture=yolov5m",
    )
    assert "error: " in message


def test_damaged_checkpoint(capsys: pytest.CaptureFixture[str], shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.ckpt").write_bytes(b"PK\x03\x04 torn")
    message = refused(capsys, "fit", *small("--data.root", str(shapes)), "--ckpt_path=torn.ckpt")
    assert "torn.ckpt" in message and "damaged" in message


def test_missing_checkpoint(capsys: pytest.CaptureFixture[str], shapes: Path) -> None:
    assert "no run in" in refused(capsys, "fit", "--data.root", str(shapes), "--ckpt_path=last")


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("--model.weights=none.pt", "none.pt: is not a file; set model.weights to a .pt"),
        ("--model.score_threshold=7", "from 0 to 1"),
        ("--model.optimizer.momentum=2", "momentum"),
        ("--data.batch_size=0", "data.batch_size"),
    ],
)
def test_what_is_wrong_is_said_before_the_step_is_chosen(
    capsys: pytest.CaptureFixture[str],
    shapes: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    remedy: str,
) -> None:
    chosen: list[Any] = []
    monkeypatch.setattr("yolo_lightning.cli.check_options.settle_step", lambda *_, **__: chosen.append(1))
    assert remedy in refused(capsys, "fit", "--data.root", str(shapes), option)
    assert chosen == []


def test_predict_without_pictures_or_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--data.predict_source" in refused(capsys, "predict")
    assert "--model.weights" in refused(capsys, "predict", "--data.predict_source=x")


def test_synth_is_a_command() -> None:
    main(["synth", "--output=made", "--train_images=2", "--val_images=1", "--image_size=64"])
    assert Path("made/annotations/instances_train.json").is_file()


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
def test_the_help_has_a_line_for_each_command(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(argv)
    named = re.findall(r"^  (\w+)  ", capsys.readouterr().out, re.MULTILINE)
    assert sorted(named) == sorted([*COMMANDS, *SUBCOMMANDS])


def test_a_letter_that_the_locale_lacks_ends_nothing() -> None:
    program = (
        "import yolo_lightning.cli.main as cli, yolo_lightning.__main__ as command\n"
        "cli.run = lambda arguments: print('≥ 猫 é')\n"
        "command.main([])"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True)
    assert (done.returncode, done.stdout.decode("latin-1")) == (0, "? ? é\n"), done.stderr


def test_a_file_system_that_never_answers_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    released, stat, silent_s = threading.Event(), os.stat, [60.0]

    def hang(path: Any, **options: Any) -> os.stat_result:
        if str(path) == str(tmp_path / "mounted"):
            released.wait(silent_s[0])
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", hang)
    monkeypatch.setattr("yolo_lightning.cli.check_options._SOON_S", 0.2)
    monkeypatch.setattr("yolo_lightning.cli.check_options.FILE_SYSTEM_S", 1.0)
    with pytest.warns(match=f"{tmp_path}/mounted: no answer yet; waiting up to 1 s for --data.root"):
        told = refused(capsys, "fit", "--data.root=mounted", "--trainer.accelerator=cpu")
    assert told.startswith(f"error: {tmp_path}/mounted: no answer within 1 s (a network file system that")
    monkeypatch.setattr("yolo_lightning.cli.check_options.FILE_SYSTEM_S", 60.0)
    silent_s[0] = 1.0  # an automounter that is slow
    with pytest.warns(match="no answer yet"):
        told = refused(capsys, "fit", "--data.root=mounted", "--trainer.accelerator=cpu")
    released.set()
    assert "mounted" in told and "no answer" not in told


def test_a_full_disk_ends_a_command_with_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(arguments: list[str]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "made")

    monkeypatch.setattr("yolo_lightning.cli.main.run", fill)
    assert refused(capsys, "synth") == "error: made: No space left on device; make room and start again"


def test_memory_that_ends_ends_a_command_with_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(arguments: list[str]) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr("yolo_lightning.cli.main.run", allocate)
    assert refused(capsys, "doctor").startswith("error: memory is used up (1,152,921,504,606.8 MB asked for")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of addresses that the system keeps")
def test_too_few_addresses_for_torch_itself_are_told_with_one_sentence() -> None:
    command = f"ulimit -v 1000000; exec {sys.executable} -m yolo_lightning fit"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "failed to map segment" in done.stderr and done.stderr.endswith("raise ulimit -v\n")
    assert done.stderr.count("\n") == 1
