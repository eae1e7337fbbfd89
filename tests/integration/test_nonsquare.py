"""Training images that are no squares, from the option to an exported model."""

from __future__ import annotations

import json
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import torch

from yolo_lightning import DetectionDataModule, Detector
from yolo_lightning.__main__ import main
from yolo_lightning.data.batch import pack_labels
from yolo_lightning.data.letterbox import from_letterbox
from yolo_lightning.data.synthetic import make_dataset
from yolo_lightning.errors import InputError
from yolo_lightning.inference.runtimes import open_model

OPTIONS = (
    "--data.batch_size=4", "--data.num_workers=0", "--model.compile=false", "--trainer.accelerator=cpu",
    "--trainer.devices=1", "--trainer.precision=32-true", "--dashboard.pictures=0",
    "--dashboard.graph=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(
        tmp_path_factory.mktemp("set") / "shapes", train_images=8, val_images=6, image_size=160
    )


def fit(shapes: Path, runs: Path, image_size: str, *options: str) -> Path:
    main(["fit", f"--data.root={shapes}", f"--runs_dir={runs}", f"--data.image_size={image_size}",
          "--trainer.max_epochs=1", *OPTIONS, *options])  # fmt: skip
    return runs / "fit/version_0"


def test_fit_validate_predict_and_export(
    shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    multi_scale = "--model.augmentation.multi_scale=0.5"
    run = fit(shapes, tmp_path / "runs", "[96, 160]", multi_scale, "--trainer.log_every_n_steps=1")
    checkpoint = run / "checkpoints/last.ckpt"
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    assert stored["hyper_parameters"]["image_size"] == [96, 160]
    assert "[96, 160] px" in (run / "report.html").read_text()
    main(["fit", f"--ckpt_path={checkpoint}", "--trainer.max_epochs=2"])  # resumes at the size of the run
    main(["validate", f"--ckpt_path={checkpoint}", "--runs_dir=runs"])
    pictures = sorted((shapes / "images/val").glob("*"))
    main(["predict", f"--ckpt_path={checkpoint}", f"--data.predict_source={pictures[0].parent}",
          "--runs_dir=runs"])  # fmt: skip
    capsys.readouterr()
    main(["export", f"--ckpt_path={checkpoint}", "--format", "onnx", "--output=out"])
    assert open_model(tmp_path / "out/last.onnx").facts.input_size == (96, 160)
    assert open_model(tmp_path / "out/last.onnx").facts.image_size == (96, 160)
    own, exported = (
        Detector(path, device="cpu", score_threshold=0.0)(pictures[0])
        for path in (checkpoint, tmp_path / "out/last.onnx")
    )
    assert len(own) and len(exported)


def test_a_square_is_the_same_given_as_one_number_or_as_two(shapes: Path, tmp_path: Path) -> None:
    states = []
    for name, size in (("one", "64"), ("two", "[64, 64]")):
        run = fit(shapes, tmp_path / name, size)
        states.append(torch.load(run / "checkpoints/last.ckpt", map_location="cpu", weights_only=True))
    first, second = states
    assert first["hyper_parameters"] == second["hyper_parameters"]
    assert all(torch.equal(first["state_dict"][key], value) for key, value in second["state_dict"].items())


def test_validation_boxes_are_those_of_a_letterbox_by_hand(shapes: Path) -> None:
    data = DetectionDataModule(str(shapes), image_size=[96, 160], batch_size=3, num_workers=0)
    data.prepare("fit")
    heights_and_widths, index = set(), data.index("val")
    for batch in data.val_dataloader():
        height, width = batch.images.shape[2:]
        restored = from_letterbox(batch.targets[..., 1:], batch.letterbox, batch.original_sizes)
        for i, position in enumerate(batch.index.tolist()):
            rows, columns = index.sizes[position].tolist()
            heights_and_widths.add((rows, columns))
            scale = min(96 / rows, 160 / columns)
            new_rows, new_columns = ceil(rows * scale), ceil(columns * scale)
            left, top = (width - new_columns) // 2, (height - new_rows) // 2
            assert (height, width) == tuple(32 * ceil(side / 32 + 0.5) for side in (new_rows, new_columns))
            boxes = index.labels(position)[:, 1:]
            gain = np.array([new_columns / columns, new_rows / rows] * 2)
            found = batch.targets[i, : int(batch.count[i]), 1:].numpy()
            np.testing.assert_allclose(found, boxes * gain + [left, top, left, top], atol=1e-3)
            np.testing.assert_allclose(restored[i, : len(boxes)].numpy(), boxes, atol=1e-3)
            inside = batch.images[i, :, top : top + new_rows, left : left + new_columns]
            grey = batch.images[i].clone()
            grey[:, top : top + new_rows, left : left + new_columns] = 114
            assert (grey == 114).all() and (inside != 114).any()
    assert len(heights_and_widths) > 1


def test_what_does_not_go_together_is_refused(shapes: Path) -> None:
    for options, message in (
        ({"image_size": [96, 160], "rect": True}, "data.rect chooses rectangles by itself"),
        ({"image_size": [90, 160]}, r"data\.image_size \[90, 160\] is not a multiple of 32; use \[96, 160\]"),
        ({"image_size": [32, 64, 96]}, r"is no size; give one number of px, or \[height, width\]"),
    ):
        with pytest.raises(InputError, match=message):
            DetectionDataModule(str(shapes), **options)


def test_the_sizes_of_labels_are_those_of_the_training_images(shapes: Path) -> None:
    data = DetectionDataModule(str(shapes), image_size=[96, 160], batch_size=8, num_workers=0)
    data.prepare("fit")
    (batch,) = data.train_dataloader()
    table, mask = pack_labels(batch.targets, batch.count, 256)
    sizes = (table[mask, 4:] - table[mask, 2:4]).numpy()
    expected = data.label_sizes_px()
    np.testing.assert_allclose(np.sort(sizes, axis=0), np.sort(expected, axis=0), atol=0.7)  # whole px


def test_a_plan_of_a_rectangle(capsys: pytest.CaptureFixture[str]) -> None:
    peaks = {}
    for size in ("384,640", "[384, 640]", "640"):
        main(["plan", f"--data.image_size={size}", "--data.batch_size=4", "--json"])
        plan = json.loads(capsys.readouterr().out)
        peaks[size] = plan["memory_gb"]["activations"]
    assert plan["image_size"] == 640
    assert peaks["384,640"] == peaks["[384, 640]"]
    assert peaks["384,640"] / peaks["640"] == pytest.approx(0.6, abs=0.03)
