from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.cli import LightningArgumentParser

from tests.support.fit_parser import fit_parser as fit_parser
from yolo_lightning.cli import migrate_options
from yolo_lightning.cli.main import run
from yolo_lightning.errors import InputError
from yolo_lightning.model.blocks import MODEL_FILES
from yolo_lightning.model.network import build_network
from yolo_lightning.model.weights import load_weights
from yolo_lightning.runs.directory import read_metrics

LOW: dict[str, Any] = {
    "lr0": 0.01, "lrf": 0.01, "momentum": 0.937, "weight_decay": 0.0005, "warmup_epochs": 3.0,
    "warmup_momentum": 0.8, "warmup_bias_lr": 0.1, "box": 0.05, "cls": 0.5, "cls_pw": 1.0, "obj": 1.0,
    "obj_pw": 1.0, "iou_t": 0.2, "anchor_t": 4.0, "fl_gamma": 0.0, "hsv_h": 0.015, "hsv_s": 0.7, "hsv_v": 0.4,
    "degrees": 0.0, "translate": 0.1, "scale": 0.5, "shear": 0.0, "perspective": 0.0, "flipud": 0.0,
    "fliplr": 0.5, "mosaic": 1.0, "mixup": 0.0, "copy_paste": 0.0,
}  # fmt: skip
"""Values of yolov5's hyp.scratch-low.yaml."""
MEDIUM = LOW | {"lrf": 0.1, "cls": 0.3, "obj": 0.7, "scale": 0.9, "mixup": 0.1}
HIGH = MEDIUM | {"copy_paste": 0.1}
OBJECTS365 = LOW | {
    "lr0": 0.00258, "lrf": 0.17, "momentum": 0.779, "weight_decay": 0.00058, "warmup_epochs": 1.33,
    "warmup_momentum": 0.86, "warmup_bias_lr": 0.0711, "box": 0.0539, "cls": 0.299, "cls_pw": 0.825,
    "obj": 0.632, "anchor_t": 3.44, "anchors": 3.2, "hsv_h": 0.0188, "hsv_s": 0.704, "hsv_v": 0.36,
    "translate": 0.0902, "scale": 0.491,
}  # fmt: skip
OPT: dict[str, Any] = {
    "weights": "", "cfg": "models/yolov5n.yaml", "data": "data/coco128.yaml", "hyp": LOW, "epochs": 100,
    "batch_size": 16, "imgsz": 640, "rect": False, "resume": False, "nosave": False, "noval": False,
    "noautoanchor": False, "noplots": False, "evolve": None, "evolve_population": "data/hyps",
    "resume_evolve": None, "bucket": "", "cache": None, "image_weights": False, "device": "",
    "multi_scale": False, "single_cls": False, "optimizer": "SGD", "sync_bn": False, "workers": 8,
    "project": "runs/train", "name": "exp", "exist_ok": False, "quad": False, "cos_lr": False,
    "label_smoothing": 0.0, "patience": 100, "freeze": [0], "save_period": -1, "seed": 0, "local_rank": -1,
    "entity": None, "upload_dataset": False, "bbox_interval": -1, "artifact_alias": "latest",
    "save_dir": "runs/train/exp",
}  # fmt: skip
"""An opt.yaml of a run of yolov5 without any option of its own, except the network."""
ARGS: dict[str, Any] = yaml.safe_load((MODEL_FILES.parents[1] / "default.yaml").read_text())
"""An args.yaml of a run of ultralytics."""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def migrate(*more: str, **files: dict[str, Any]) -> dict[str, Any]:
    """The configuration made of option files."""
    for name, content in files.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump(content))
    Path("config.yaml").unlink(missing_ok=True)
    run(["migrate", *(word for name in files for word in (f"--{name}", f"{name}.yaml")), *more])
    content = yaml.safe_load(Path("config.yaml").read_text())
    assert isinstance(content, dict)
    return content


def test_a_run_of_yolov5_without_options_becomes_the_defaults(
    shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = migrate(opt=OPT | {"data": str(shapes)})
    printed = capsys.readouterr()
    assert printed.err == ""  # nothing has changed
    assert printed.out.endswith("Train with: yolo-lightning fit --config config.yaml\n")
    assert config["data"] == {"root": str(shapes), "batch_size": 16, "image_size": 640}
    assert config["trainer"] == {"max_epochs": 100} and config["model"]["architecture"] == "yolov5n"
    written = Path("config.yaml").read_text()
    assert "# Made by yolo-lightning migrate from opt.yaml.\n" in written
    assert "\n    learning_rate: 0.01  # lr0\n" in written and "\n    momentum: 0.937\n" in written


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"rect": True}, {"data.rect": True}),
        ({"noval": True, "epochs": 30}, {"trainer.check_val_every_n_epoch": 30}),
        ({"noautoanchor": True}, {"model.auto_anchor": False}),
        ({"noplots": True}, {"dashboard.pictures": 0, "dashboard.curves": False, "dashboard.report": False}),
        ({"cache": "ram"}, {"data.cache": "ram"}),
        ({"image_weights": True}, {"data.image_weights": True}),
        ({"device": "cpu"}, {"trainer.accelerator": "cpu"}),
        (
            {"device": "0,1", "batch_size": 64},
            {"trainer.accelerator": "gpu", "trainer.devices": [0, 1], "data.batch_size": 32},
        ),
        ({"multi_scale": True}, {"model.augmentation.multi_scale": 0.5}),
        ({"single_cls": True}, {"data.single_cls": True}),
        ({"optimizer": "AdamW"}, {"model.optimizer.name": "adamw"}),
        ({"optimizer": "Adam"}, {"model.optimizer.name": "adam"}),
        ({"sync_bn": True}, {"trainer.sync_batchnorm": True}),
        ({"workers": 2}, {"data.num_workers": 2}),
        ({"project": "mine", "name": "first"}, {"runs_dir": "mine", "run_name": "first"}),
        ({"cos_lr": True}, {"model.optimizer.schedule": "cosine"}),
        ({"label_smoothing": 0.1}, {"model.loss.label_smoothing": 0.1}),
        ({"patience": 7}, {"patience": 7}),
        ({"freeze": [10]}, {"model.freeze": 10}),
        ({"freeze": [0, 2]}, {"model.freeze": [0, 2]}),
        ({"save_period": 5}, {"save_period": 5}),
        ({"seed": 3}, {"seed_everything": 3}),
        ({"bbox_interval": 2}, {"dashboard.pictures_every": 2}),
        (
            {"cfg": "", "weights": "yolov5s6.pt"},
            {"model.weights": "yolov5s6", "model.architecture": "yolov5s6"},
        ),
    ],
)
def test_each_flag_of_train_py(given: dict[str, Any], expected: dict[str, Any], shapes: Path) -> None:
    data = {"data": str(shapes)}
    before, after = flat(migrate(opt=OPT | data)), flat(migrate(opt=OPT | data | given))
    added = {key: value for key, value in after.items() if before.get(key, ...) != value}
    assert expected.items() <= added.items()
    assert added.keys() - expected.keys() <= {"trainer.max_epochs", "model.optimizer.name"}


def test_flags_of_earlier_versions(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of an opt.yaml of yolov5 5.0, whose schedule was a cosine."""
    usual = {key: value for key, value in OPT.items() if key not in ("imgsz", "cache", "optimizer", "cos_lr")}
    earlier = {
        "img_size": [320, 320], "cache_images": True, "adam": True, "linear_lr": False, "notest": True,
        "world_size": 1, "global_rank": -1, "total_batch_size": 16, "data": str(shapes),
    }  # fmt: skip
    config = flat(migrate(opt=usual | earlier))
    assert capsys.readouterr().err == ""
    assert config["data.image_size"] == 320 and config["data.cache"] == "ram"
    assert config["model.optimizer.name"] == "adam" and config["model.optimizer.schedule"] == "cosine"
    assert config["trainer.check_val_every_n_epoch"] == 100


def flat(tree: dict[str, Any], group: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in tree.items():
        values |= flat(value, f"{group}{name}.") if isinstance(value, dict) else {f"{group}{name}": value}
    return values


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"time": 1.5}, {"deadline": "1.5h"}),
        ({"batch": 8}, {"data.batch_size": 8}),
        ({"device": [0, 1]}, {"trainer.devices": [0, 1], "data.batch_size": 8}),
        ({"optimizer": "AdamW"}, {"model.optimizer.name": "adamw"}),
        ({"amp": False}, {"trainer.precision": "32-true"}),
        ({"amp": "bf16"}, {"trainer.precision": "bf16-mixed"}),
        ({"fraction": 0.1}, {"data.fraction": 0.1}),
        ({"classes": [0, 2]}, {"data.classes": [0, 2]}),
        ({"freeze": 10}, {"model.freeze": 10}),
        ({"multi_scale": 0.25}, {"model.augmentation.multi_scale": 0.25}),
        ({"compile": True}, {"model.compile": True}),
        ({"val": False}, {"trainer.check_val_every_n_epoch": 100}),
        ({"plots": False}, {"dashboard.pictures": 0, "dashboard.report": False}),
        ({"conf": 0.01}, {"model.evaluation.score_threshold": 0.01}),
        ({"cutmix": 0.2, "bgr": 0.1}, {"model.augmentation.cutmix": 0.2, "model.augmentation.bgr": 0.1}),
        ({"save": False}, {"trainer.enable_checkpointing": False}),
        ({"model": "yolov5s.yaml"}, {"model.architecture": "yolov5su"}),
        ({"box": 9.0}, {"model.anchor_free_loss.box_gain": 9.0}),
    ],
)
def test_keys_of_ultralytics(given: dict[str, Any], expected: dict[str, Any], shapes: Path) -> None:
    usual = ARGS | {"model": "yolov5n.pt", "data": str(shapes)}
    before = flat(migrate(opt=usual))
    assert before["model.weights"] == before["model.architecture"] == "yolov5nu"
    assert before["model.evaluation.iou_threshold"] == 0.7
    after = flat(migrate(opt=usual | given))
    added = {key: value for key, value in after.items() if before.get(key, ...) != value}
    assert expected.items() <= added.items()


def test_what_has_changed_or_is_lost_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    migrate(
        opt=OPT | {"device": "0,1", "bucket": "gs://mine", "quad": True, "resume": True, "batch_size": -1},
        hyp=OBJECTS365 | {"copy_paste": 0.1},
    )
    said = capsys.readouterr().err
    head = Path("config.yaml").read_text().partition("\nmodel:")[0]
    for sentence in (
        "data data/coco128.yaml is not found from this folder; correct data.root",
        "bucket gs://mine has no counterpart in fit",
        "quad True has no counterpart in fit",
        "resume True is not possible here",
        "batch_size -1 was found by memory, as auto is",
        "anchors 3.2 is the number of anchors a level",
        "copy_paste 0.1 needs outlines: if your labels have them, set data.copy_paste 0.1",
    ):
        assert f"{sentence}" in said and f"# {sentence}" in head
    assert len(said.splitlines()) == 7
    migrate(opt=ARGS | {"model": "yolov5nu.pt", "dis": 3.0, "pretrained": False})
    said = capsys.readouterr().err
    assert "optimizer auto is not offered; sgd trains" in said and "dis 3.0 has no counterpart in fit" in said
    assert "pretrained False needs your choice of model.weights" in said and len(said.splitlines()) == 3


def test_weights_of_a_run_give_the_architecture(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(build_network("yolov5nu", 5).state_dict(), "best.pt")
    config = migrate("--weights", "best.pt", opt=OPT | {"cfg": "", "weights": "gone.pt", "data": str(shapes)})
    assert config["model"]["architecture"] == "yolov5nu"
    assert config["model"]["weights"] == str(Path("best.pt").absolute())
    torch.save({f"model.{key}": torch.zeros(3) for key in "abc"}, "own.pt")
    capsys.readouterr()
    migrate("--weights", "own.pt", opt=OPT | {"cfg": "", "data": str(shapes)})
    assert "own.pt are of a model of its own: set model.architecture" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "files", "said"),
    [
        ([], {}, "give --opt with an opt.yaml or args.yaml, --hyp with a hyp.yaml, or both"),
        (["--opt", "none.yaml"], {}, r"none\.yaml: cannot be read \(.*No such file"),
        ([], {"opt": LOW}, r"opt\.yaml: has no batch_size or task; give an opt\.yaml or args\.yaml as --opt"),
        ([], {"hyp": OPT}, r"hyp\.yaml: has no lr0"),
        ([], {"opt": ARGS | {"task": "segment"}}, "is of the task segment; only detectors are trained here"),
        ([], {"opt": ARGS | {"model": "yolov8n.pt"}}, r"yolov8n\.pt: is neither a file .* as --weights"),
        (["--output", "opt.yaml/mine.yaml"], {"opt": OPT}, r"mine\.yaml: cannot be written \("),
        (["--output", "opt.yaml"], {"opt": OPT}, r"opt\.yaml: exists already; give another file as --output"),
    ],
)
def test_wrong_files_are_refused(options: list[str], files: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        migrate(*options, **files)
    assert not Path("config.yaml").exists()


@pytest.mark.parametrize(("content", "option"), [(LOW, "--hyp"), (OPT, "--opt"), (ARGS, "--opt")])
def test_fit_names_migrate_for_a_file_of_others(content: dict[str, Any], option: str) -> None:
    Path("theirs.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(
        InputError, match=f"convert it with 'yolo-lightning migrate {option} theirs.yaml', and"
    ):
        run(["fit", "--config", "theirs.yaml"])


QUICK = ("--data.num_workers=0", "--data.cache=none", "--model.compile=false")
OTHERS = Path(__file__).parents[1] / "support" / "options_of_others.yaml"


@pytest.mark.parametrize(
    ("opt", "hyp"),
    [
        (OPT | {"hyp": MEDIUM, "cos_lr": True}, None),
        (OPT, OBJECTS365),
        (OPT, HIGH),
    ],
    ids=["medium", "objects365", "high"],
)
def test_fit_trains_with_the_configuration(
    opt: dict[str, Any], hyp: dict[str, Any] | None, shapes: Path
) -> None:
    small = {"data": str(shapes), "epochs": 1, "batch_size": 4, "imgsz": 64, "device": "cpu", "name": "mine"}
    migrate(opt=opt | {"noplots": True} | small, **({"hyp": hyp} if hyp else {}))
    run(["fit", "--config=config.yaml", "--trainer.limit_train_batches=2", *QUICK])
    (row,) = read_metrics(Path("runs/mine/version_0/metrics.csv"))
    assert row["train/box_loss"] > 0
    saved = yaml.safe_load(Path("runs/mine/version_0/config.yaml").read_text())
    assert saved["model"]["optimizer"]["learning_rate"] == (hyp or MEDIUM)["lr0"]
    assert saved["model"]["loss"]["class_gain"] == (hyp or MEDIUM)["cls"]


def test_a_fine_tune_keeps_the_anchors_of_the_weights(shapes: Path) -> None:
    """They are tensors of the head; the number of classes is another one."""
    state = build_network("yolov5n", 80).state_dict()
    state["model.24.anchors"] *= 1.5
    torch.save(state, "best.pt")
    small = {"data": str(shapes), "epochs": 1, "batch_size": 4, "imgsz": 64, "device": "cpu", "cfg": ""}
    migrate("--weights", "best.pt", opt=OPT | small | {"weights": "yolov5s.pt", "noplots": True})
    run(["fit", "--config=config.yaml", "--trainer.limit_train_batches=2", *QUICK])
    checkpoint = Path("runs/fit/version_0/checkpoints/last.ckpt")
    anchors = load_weights(checkpoint).state_dict["model.24.anchors"]
    assert torch.equal(anchors, state["model.24.anchors"])


def test_our_options_exist(fit_parser: LightningArgumentParser) -> None:
    tables = (migrate_options.TRAIN, migrate_options.HYP, migrate_options.ULTRALYTICS)
    entries = [entry for table in tables for entry in table.values()]
    keys = {entry if isinstance(entry, str) else entry[0] for entry in entries} - {""}
    assert len(keys) > 60
    assert {f"--{key}" for key in keys} <= {*fit_parser._option_string_actions}
