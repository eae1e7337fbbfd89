"""Options of yolov5 and ultralytics, each with the option of ``fit`` that replaces it.

The tables of docs/from-yolov5.md and docs/from-ultralytics.md are tested against these.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Found = tuple[dict[str, Any], str]
"""Our options with their values, and a remark if the meaning has changed."""
Convert = Callable[[str, Any, Mapping[str, Any]], Found]
"""Converts the name of our option, their value, and all of their options."""
Table = dict[str, str | tuple[str, Convert]]
"""Their option to ours, such as ``trainer.max_epochs``, and how to convert the value if it is another one."""


def is_set(value: Any) -> bool:
    """Tell if an option is used at all."""
    return value not in (None, "", False, 0, -1, [])


def keep(key: str, value: Any, _: Mapping[str, Any]) -> Found:
    """Keep a value, unless there is none."""
    return ({} if value is None else {key: value}), ""


def _if_set(key: str, value: Any, _: Mapping[str, Any]) -> Found:
    return ({key: value} if is_set(value) else {}), ""


def _one_of(words: Mapping[Any, Any], remark: str = "") -> Convert:
    """Translate words; another one sets nothing, and gives a remark."""

    def converter(key: str, value: Any, _: Mapping[str, Any]) -> Found:
        word = value.lower() if isinstance(value, str) else value
        if word in words:
            return {key: words[word]}, ""
        return {}, remark if is_set(value) else ""

    return converter


def _unless_default(pattern: str) -> Convert:
    """Leave out their default, which the user has not asked for."""
    return lambda key, value, _: ({} if re.fullmatch(pattern, str(value or "")) else {key: value}, "")


def _gpus(device: Any) -> list[int]:
    text = ",".join(map(str, device)) if isinstance(device, list) else str(device)
    return [int(number) for number in re.findall(r"\d+", text)] if re.fullmatch(r"[\d, ]+", text) else []


def _device(key: str, value: Any, _: Mapping[str, Any]) -> Found:
    if gpus := _gpus(value):
        return {key: "gpu", "trainer.devices": gpus}, ""
    return _one_of({"cpu": "cpu", "mps": "mps"}, "needs your choice of trainer.devices")(key, value, {})


def _batch_size(key: str, value: Any, given: Mapping[str, Any]) -> Found:
    if not isinstance(value, int) or value < 1:
        return {key: "auto"}, "was found by memory, as auto is, by other rules"
    processes = len(_gpus(given.get("device"))) or 1
    remark = f"was for all GPUs; {key} is per process" if processes > 1 else ""
    return {key: max(1, value // processes)}, remark


def _last_epoch_alone(key: str, value: Any, given: Mapping[str, Any]) -> Found:
    return ({key: given.get("epochs", 100)} if value is True else {}), ""


def _no_plots(key: str, value: Any, _: Mapping[str, Any]) -> Found:
    off = {key: 0, "dashboard.curves": False, "dashboard.report": False}
    return (off if value is True else {}), ""


def _unless(converter: Convert) -> Convert:
    """Convert an option that says the opposite."""
    return lambda key, value, given: converter(key, value is False, given)


def _classic_freeze(key: str, value: Any, _: Mapping[str, Any]) -> Found:
    """One number is how many layers are frozen, several are which."""
    return _if_set(key, value[0] if isinstance(value, list) and len(value) == 1 else value, {})


def _copy_paste(key: str, value: Any, _: Mapping[str, Any]) -> Found:
    return {}, f"needs outlines: if your labels have them, set {key} {value}" if value else ""


def _data(key: str, value: Any, _: Mapping[str, Any]) -> Found:
    if not value or Path(value).exists():
        return _if_set(key, value and str(Path(value).absolute()), {})
    return {key: value}, f"is not found from this folder; correct {key}"


def _within(group: str, names: str) -> Table:
    """Options of a group that keep their value; ``theirs:ours`` if they have two names."""
    pairs = (name.partition(":") for name in names.split())
    return {theirs: f"{group}.{ours or theirs}" for theirs, _, ours in pairs}


_SHARED: Table = {
    "data": ("data.root", _data),
    "epochs": "trainer.max_epochs",
    "patience": "patience",
    "imgsz": "data.image_size",
    "save_period": ("save_period", _if_set),
    "cache": ("data.cache", _one_of({"ram": "ram", True: "ram", "disk": "disk"})),
    "device": ("trainer.accelerator", _device),
    "workers": ("data.num_workers", _unless_default("8")),
    "project": ("runs_dir", _unless_default(r"(.*/)?(runs/(train|detect))?")),
    "name": ("run_name", _unless_default(r"((exp|train)-?\d*)?")),
    "seed": "seed_everything",
    "single_cls": ("data.single_cls", _if_set),
    "rect": ("data.rect", _if_set),
    "cos_lr": ("model.optimizer.schedule", _one_of({True: "cosine"})),
    "resume": ("", _one_of({}, "is not possible here: give last.pt as --weights, and training starts anew")),
}
_OPTIMIZERS = {"sgd": "sgd", "adam": "adam", "adamw": "adamw"}
_SHARED_HYP: Table = {
    **_within("model.optimizer", "lr0:learning_rate lrf:final_learning_rate_fraction momentum weight_decay"),
    **_within("model.optimizer", "warmup_epochs warmup_momentum warmup_bias_lr:warmup_bias_learning_rate"),
    **_within("model.augmentation", "hsv_h hsv_s hsv_v degrees translate scale shear perspective"),
    **_within("model.augmentation", "flipud:flip_up_down fliplr:flip_left_right mosaic mixup"),
    "copy_paste": ("data.copy_paste", _copy_paste),
}
HYP: Table = {
    **_SHARED_HYP,
    **_within("model.loss", "box:box_gain cls:class_gain cls_pw:class_positive_weight fl_gamma:focal_gamma"),
    **_within(
        "model.loss", "obj:objectness_gain obj_pw:objectness_positive_weight anchor_t:anchor_threshold"
    ),
    "anchors": ("", _one_of({}, "is the number of anchors a level, which belongs into the model YAML")),
}
"""Keys of a hyp.yaml of yolov5."""
TRAIN: Table = {
    **_SHARED,
    "batch_size": ("data.batch_size", _batch_size),
    "noval": ("trainer.check_val_every_n_epoch", _last_epoch_alone),
    "noautoanchor": ("model.auto_anchor", _one_of({True: False})),
    "noplots": ("dashboard.pictures", _no_plots),
    "image_weights": ("data.image_weights", _if_set),
    "multi_scale": ("model.augmentation.multi_scale", _one_of({True: 0.5})),
    "optimizer": ("model.optimizer.name", _one_of(_OPTIMIZERS)),
    "sync_bn": ("trainer.sync_batchnorm", _if_set),
    "label_smoothing": "model.loss.label_smoothing",
    "freeze": ("model.freeze", _classic_freeze),
    "bbox_interval": ("dashboard.pictures_every", _if_set),
}
"""Flags of train.py of yolov5, as a run keeps them in its opt.yaml."""
EARLIER: Table = {
    "img_size": ("data.image_size", lambda key, value, _: ({key: max(value)}, "")),
    "cache_images": _SHARED["cache"],
    "adam": ("model.optimizer.name", _one_of({True: "adam"})),
    "linear_lr": ("model.optimizer.schedule", _one_of({False: "cosine", True: "linear"})),
    "notest": TRAIN["noval"],
}
"""Flags of train.py of yolov5 before 6.1 that have other names since; the schedule was a cosine."""
ULTRALYTICS: Table = {
    **_SHARED,
    **_SHARED_HYP,
    **_within("model.anchor_free_loss", "box:box_gain cls:class_gain dfl:dfl_gain"),
    **_within("model.evaluation", "conf:score_threshold iou:iou_threshold max_det:max_detections"),
    "pretrained": (
        "",
        lambda _, value, __: ({}, "" if value is True else "needs your choice of model.weights"),
    ),
    "batch": ("data.batch_size", _batch_size),
    "time": ("deadline", lambda key, value, _: ({key: f"{value:g}h"} if value else {}, "")),
    "save": "trainer.enable_checkpointing",
    "verbose": "trainer.enable_progress_bar",
    "optimizer": (
        "model.optimizer.name",
        _one_of(_OPTIMIZERS, "is not offered; sgd trains with your lr0"),
    ),
    "close_mosaic": "model.augmentation.close_mosaic",
    "amp": (
        "trainer.precision",
        _one_of({False: "32-true", "fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}),
    ),
    "fraction": "data.fraction",
    "classes": ("data.classes", _if_set),
    "freeze": ("model.freeze", _if_set),
    "multi_scale": ("model.augmentation.multi_scale", _if_set),
    "compile": ("model.compile", _if_set),
    "channels_last": "model.channels_last",
    "val": ("trainer.check_val_every_n_epoch", _unless(_last_epoch_alone)),
    "plots": ("dashboard.pictures", _unless(_no_plots)),
    "cls_pw": ("model.anchor_free_loss.class_weight_power", _if_set),
    "nbs": "model.optimizer.nominal_batch_size",
    "bgr": ("model.augmentation.bgr", _if_set),
    "cutmix": ("model.augmentation.cutmix", _if_set),
}
"""Keys of the args.yaml of a run of ultralytics."""
NO_SETTING = {
    *("hyp", "weights", "cfg", "task", "mode", "model"),  # read apart
    *("save_dir", "iou_t", "local_rank", "artifact_alias", "evolve_population", "resume_evolve"),
    *("world_size", "global_rank", "total_batch_size"),  # of the machine
}
"""Options that need no setting and no remark."""
