"""What is fuzzed: a strategy for the contents of files, and the reading of them by the public road.

A target's ``check`` gets one example and a folder of its own that holds everything else. It returns True if
the example was read, and False if it was refused with an ``InputError``. Any other exception is a finding.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from hypothesis import strategies as st

from tests.fuzz.mutations import (
    DEEP,
    HUGE_DIGITS,
    ODD_NUMBERS,
    ODD_TEXTS,
    as_json,
    damaged,
    documents,
    values,
)
from tests.support.tiny_data import coco_document, write_coco, write_image, write_yolo
from yolo_lightning.data.annotations.source import DataSource
from yolo_lightning.data.images.decode import header_size, read_rgb
from yolo_lightning.errors import InputError
from yolo_lightning.model.architecture import self_contained
from yolo_lightning.model.network import build_network
from yolo_lightning.model.weights import load_weights
from yolo_lightning.monitoring.report.page import report_page
from yolo_lightning.monitoring.report.read import read_run
from yolo_lightning.runs.checkpoint_files import newest_whole
from yolo_lightning.runs.checkpoint_format import read_resumption
from yolo_lightning.runs.run_config import run_options

Folder = Path


@dataclass(frozen=True)
class Target:
    """One kind of file."""

    examples: st.SearchStrategy[Any]
    prepare: Callable[[Folder], object]  # writes what all examples have in common
    read: Callable[[Folder, Any], object]
    cost: int = 1  # of an example, in those of other targets

    def check(self, folder: Folder, example: Any) -> bool:
        """Read one example; False if it was refused."""
        try:
            self.read(folder, example)
        except InputError as error:
            assert str(error), "a refusal without words"
            return False
        return True


def _read_split(root: Path) -> None:
    """Read the training split as training does, and all that is asked of its index."""
    index = DataSource(root).read("train")
    assert np.isfinite(index.boxes).all() and (index.classes < len(index.class_names)).all()
    for i in range(len(index)):
        index.labels(i)
        index.truth(i)
        index.path(i)


# COCO


def _coco_documents() -> list[Any]:
    usual = coco_document()
    outlined = json.loads(json.dumps(usual))
    for n, item in enumerate(outlined["annotations"]):
        item.pop("bbox")
        item["segmentation"] = [
            [[10, 10, 20, 10, 20, 20]], {"counts": [0, 2400], "size": [40, 60]}, {"counts": "0PZ2",
            "size": [40, 60]},
        ][n % 3]  # fmt: skip
    mapped = {**usual, "annotations": {str(item["id"]): item for item in usual["annotations"]}}
    return [usual, outlined, mapped]


def _write_text(place: str) -> Callable[[Folder, bytes], None]:
    def read(folder: Folder, data: bytes) -> None:
        (folder / place).write_bytes(data)
        _read_split(folder)

    return read


# YOLO


_lines = st.one_of(
    st.sampled_from(
        ["0 0.5 0.5 0.2 0.2", "1 0.1 0.1 0.5 0.1 0.5 0.5", "1;0,5;0,5;0,1;0,1", "0, .5, .5, .1, .1"]
    ),
    st.lists(
        st.floats(-0.2, 1.2).map(str) | st.sampled_from([*map(str, ODD_NUMBERS), *ODD_TEXTS, HUGE_DIGITS]),
        max_size=9,
    ).map(" ".join),
    st.text(max_size=30),
)  # fmt: skip


@st.composite
def _label_files(draw: st.DrawFn) -> bytes:
    text = draw(st.sampled_from(["\n", "\r\n", "\r", "\u2028"])).join(draw(st.lists(_lines, max_size=6)))
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-16", "utf-8-sig", "utf-16-le"]))
    return draw(damaged(text.encode(encoding, "surrogatepass")))


@st.composite
def _as_yaml(draw: st.DrawFn, document: Any) -> bytes:
    text = yaml.safe_dump(document, allow_unicode=draw(st.booleans()), default_flow_style=draw(st.booleans()))
    text = text.replace(HUGE_DIGITS, draw(st.sampled_from([HUGE_DIGITS, "1e", "0x" + "f" * 4000])))
    text = text.replace(DEEP, draw(st.sampled_from(["[" * 500, "[" * 90 + "]" * 90, "- " * 3000 + "a"])))
    odd = [
        "", "%YAML 9.9\n", "--- a\n--- b\n", "&a [*a]\n", "!!python/object/apply:os.system [id]\n",
        "? [a]\n: b\n", "<<: 1\n",
        "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
        ),
    ]  # fmt: skip
    if draw(st.integers(0, 7)) == 0:
        text = draw(st.sampled_from(odd)) + text
    data = text.encode("utf-8", "surrogatepass")
    return draw(damaged(data)) if draw(st.integers(0, 3)) == 0 else data


_DATA_YAML = {
    "path": ".", "train": "images/train", "val": ["images/val", "images/train"], "nc": 2,
    "names": {0: "cat", 1: "dog"},
    "kpt_shape": [0, 2],
}  # fmt: skip
_DATA_YAMLS = [
    _DATA_YAML,
    {"train": "list.txt", "names": ["cat", "dog"]},
    {**_DATA_YAML, "names": ["cat", "dog"]},
]


def _yolo_data(folder: Folder) -> None:
    write_yolo(folder, {"v": "0 0.5 0.5 0.2 0.2\n"}, split="val")
    write_yolo(folder, {"a": "0 0.5 0.5 0.2 0.2\n", "b": "1 0.1 0.1 0.5 0.1 0.5 0.5\n"})
    (folder / "list.txt").write_text("images/train/a.png\n")


# Models and weights


_MODELS = [
    {
        "backbone": [[-1, 1, "Conv", [8, 3, 8]], [-1, 2, "C3", [16]], [-1, 1, "nn.Upsample", ["None", 2,
        "nearest"]]],
        "head": [[[0, 1], 1, "Concat", [1]], [[0, -1], 1, "Detect", ["nc"]]],
        "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]],
        "activation": "nn.LeakyReLU(0.1)", "depth_multiple": 0.33, "width_multiple": 0.5,
    },
    {
        "scales": {"n": [0.33, 0.25, 1024]}, "scale": "n",
        "backbone": [[-1, 1, "Conv", [64, 6, 2, 2]], [-1, 1, "SPPF", [64, 5]], [-1, 1, "C2f", [32, True]]],
        "head": [[[0, 2], 1, "Detect", ["nc"]]],
    },
]  # fmt: skip


def _read_model(folder: Folder, data: bytes) -> None:
    path = folder / "model.yaml"
    path.write_bytes(data)
    build_network(self_contained(str(path)), 3)


def _checkpoint_document() -> dict[str, Any]:
    counts = {"ready": 1, "started": 1, "processed": 1, "completed": 1}
    return {
        "format_version": 1, "epoch": 1, "global_step": 7,
        "state_dict": {"network.model.0.conv.weight": {"tensor": [2, 3]},
        "network.model.1.anchors": {"tensor": [3, 3, 2]},
                       "network.model.1.m.0.weight": {"tensor": [21, 4, 1, 1]}},
        "callbacks": {"RunRecorder": {"logged_step": 3}},
        "loops": {"fit_loop": {"epoch_progress": {"current": counts, "total": counts},
                               "epoch_loop.batch_progress": {"current": counts, "total": counts,
                               "is_last_batch": True},
                               "epoch_loop.state_dict": {"_batches_that_stepped": 1}}},
        "hyper_parameters": {"architecture": "yolov5n", "num_classes": 2, "class_names": ["cat", "dog"],
        "seed": 0},
        "within_epoch": {"given_again": 0, "validates_first": True},
    }  # fmt: skip


_CLASSIC = {"ema": None, "model": {"a.weight": {"tensor": [4]}, "b": {"tensor": [1, 2]}}, "epoch": -1}


def _with_tensors(value: Any) -> Any:
    """A document with a tensor in the place of each ``{"tensor": shape}``."""
    if isinstance(value, dict) and value.keys() == {"tensor"}:
        shape = value["tensor"]
        sound = (
            isinstance(shape, list) and all(type(n) is int and 0 <= n < 30 for n in shape) and len(shape) < 5
        )
        return torch.zeros(shape) if sound else torch.zeros(2).expand(3, 2).to_sparse()
    if isinstance(value, dict):
        return {key: _with_tensors(one) for key, one in value.items()}
    return [_with_tensors(one) for one in value] if isinstance(value, list) else value


def _saved(document: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(_with_tensors(document), buffer)
    return buffer.getvalue()


def _rezipped(data: bytes, pickled: bytes) -> bytes:
    """The archive with another pickle, its checksums right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))
    return buffer.getvalue()


@st.composite
def _checkpoints(draw: st.DrawFn) -> bytes:
    data = _saved(draw(documents(_checkpoint_document(), _CLASSIC, most=3)))
    match draw(st.sampled_from(["as it is", "as it is", "bytes", "pickle", "plain"])):
        case "bytes":
            return draw(damaged(data))
        case "pickle":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
            return _rezipped(data, draw(damaged(pickled)))
        case "plain":
            return draw(damaged(pickle.dumps(draw(values), draw(st.integers(0, 5)))))
    return data


def _read_checkpoint(folder: Folder, data: bytes) -> None:
    path = folder / "last.ckpt"
    path.write_bytes(data)
    refusals = []
    for read in (load_weights, lambda path: read_resumption(newest_whole(path, lambda _: None))):
        try:
            read(path)
        except InputError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


_HEADER = {
    "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
    "b": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [16, 24]}, "__metadata__": {"format": "pt"},
}  # fmt: skip


@st.composite
def _safetensors(draw: st.DrawFn) -> bytes:
    header = draw(documents(_HEADER, most=2).flatmap(as_json))
    length = draw(st.just(len(header)) | st.sampled_from([0, 2**31, 2**63, 90_000_000]) | st.integers(0, 300))
    data = struct.pack("<Q", length) + header + bytes(24)
    return draw(damaged(data)) if draw(st.booleans()) else data


def _read_safetensors(folder: Folder, data: bytes) -> None:
    path = folder / "weights.safetensors"
    path.write_bytes(data)
    load_weights(path)


# Images


def _images() -> list[bytes]:
    pixels = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8), (0, 0), 2)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    found = {
        suffix: cv2.imencode(suffix, pixels)[1].tobytes()
        for suffix in (".jpg", ".png", ".bmp", ".webp", ".tiff")
    }
    turned = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + found[".jpg"][2:]
    progressive = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    return [found[".jpg"], turned, progressive, *(data for suffix, data in found.items() if suffix != ".jpg")]


def _read_image(folder: Folder, data: bytes) -> None:
    path = folder / "image.jpg"
    path.write_bytes(data)
    size = header_size(path)
    pixels = read_rgb(path, size)
    assert pixels.shape == (*size, 3) and pixels.dtype == np.uint8


# Run directories


_CONFIG = {
    "runs_dir": "runs", "run_name": "fit",
    "trainer": {"max_epochs": 2, "logger": False, "devices": [0], "callbacks": [
        {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "val/map"}}]},
    "model": {"architecture": "yolov5n", "optimizer": {"lr": 0.01}},
    "data": {"root": "data", "image_size": 64, "batch_size": 4},
}  # fmt: skip


def _read_config(folder: Folder, data: bytes) -> None:
    (folder / "config.yaml").write_bytes(data)
    run_options(folder, [("trainer.max_epochs", "3")])


_RUN_FILES: dict[str, Any] = {
    "environment.json": {"gpus": ["A"], "world_size": 1, "command": ["fit"], "packages": {"torch": "2"},
    "commit": "a"},
    "summary.json": {"best": {"val/map": 0.5, "val/map_50": 0.6, "epoch": 1}},
    "time_budget.json": {"wall_seconds": 2.0, "seconds": {"train": 1.0}, "processes": 1},
    "gpu_health.json": {"devices": [{"name": "A", "temperature": {"max": 80, "mean": 70.5},
    "throttled": {"power": 0.5}}]},
    "config.yaml": _CONFIG,
    "evaluation.json": {
        "epoch": 1, "class_names": ["cat"], "confidence": [0, 0.5], "precision": [[0.5, 1]], "recall": [[1,
        0.5]],
        "f1": [[0.6, 0.6]], "pr_recall": [0, 1], "pr_precision": [[1, None]], "ap_50": [0.5],
        "confusion": [[1, 0], [0, 1]],
        "best_f1": {"confidence": 0.5, "f1": 0.6},
    },
}  # fmt: skip
_METRICS = "epoch,step,val/map,train/box_loss\n0,1,0.5,1.5\n1,2,0.6,\n"


@st.composite
def _runs(draw: st.DrawFn) -> tuple[str, bytes]:
    name = draw(st.sampled_from(["metrics.csv", *_RUN_FILES]))
    if name == "metrics.csv":
        cells = _METRICS.replace("0.5", draw(st.sampled_from([*map(str, ODD_NUMBERS), *ODD_TEXTS])))
        return name, draw(damaged(cells.encode("utf-8", "surrogatepass")))
    write = _as_yaml if name.endswith(".yaml") else as_json
    return name, draw(documents(_RUN_FILES[name]).flatmap(write))


def _write_run(folder: Folder) -> None:
    (folder / "metrics.csv").write_text(_METRICS)
    for name, content in _RUN_FILES.items():
        text = yaml.safe_dump(content) if name.endswith(".yaml") else json.dumps(content)
        (folder / name).write_text(text)
    write_image(folder / "pictures" / "predictions.jpg")


def _read_run(folder: Folder, example: tuple[str, bytes]) -> None:
    name, data = example
    before = (folder / name).read_bytes()
    (folder / name).write_bytes(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert "<script" not in report_page(read_run(folder))
    finally:
        (folder / name).write_bytes(before)


def _nothing(_: Folder) -> None:
    pass


TARGETS: dict[str, Target] = {
    "coco": Target(
        documents(*_coco_documents()).flatmap(as_json),
        lambda folder: write_coco(folder, coco_document()),
        _write_text("annotations/instances_train.json"),
    ),
    "labels": Target(_label_files(), _yolo_data, _write_text("labels/train/a.txt")),
    "data_yaml": Target(documents(*_DATA_YAMLS).flatmap(_as_yaml), _yolo_data, _write_text("data.yaml")),
    "model_yaml": Target(documents(*_MODELS, most=3).flatmap(_as_yaml), _nothing, _read_model),
    "checkpoint": Target(_checkpoints(), _nothing, _read_checkpoint),
    "safetensors": Target(_safetensors(), _nothing, _read_safetensors),
    "image": Target(st.sampled_from(_images()).flatmap(damaged), _nothing, _read_image),
    "run_config": Target(documents(_CONFIG).flatmap(_as_yaml), _nothing, _read_config),
    "run": Target(_runs(), _write_run, _read_run, cost=20),
}  # fmt: skip
