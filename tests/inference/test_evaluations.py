"""What ``validate`` and ``test`` write beside their metrics."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from yolo_lightning.__main__ import main
from yolo_lightning.data.batch import Batch

OPTIONS = (
    "--data.image_size=64", "--data.batch_size=4", "--data.num_workers=0", "--model.compile=false",
    "--trainer.accelerator=cpu", "--trainer.devices=1", "--dashboard.pictures=0", "--dashboard.graph=false",
    "--dashboard.report=false",
)  # fmt: skip


def moved_annotations(head: Any, maps: Any, batch: Batch, **_: Any) -> tuple[Tensor, Tensor]:
    """Each annotation moved by up to 3 px, and again with another class; nothing that a file rounds."""
    generator = torch.Generator().manual_seed(int(batch.image_ids[0]))
    rows = torch.zeros(len(batch.truth), 2 * batch.truth.shape[1], 6)
    for row, truth, count in zip(rows, batch.truth.cpu(), batch.truth_count.tolist(), strict=True):
        boxes, labels = truth[:count, 1:5].mul(4).round().div(4), truth[:count, :1]
        shift = torch.randint(-12, 13, (count, 4), generator=generator) / 4
        scores = torch.randperm(2 * count, generator=generator)[:, None].div(100) + 0.05
        found = torch.cat((boxes + shift, scores[:count], labels), 1)
        other = torch.cat((boxes, scores[count:], (labels + 1) % 5), 1)
        row[: 2 * count] = torch.cat((found, other))
    return rows, 2 * batch.truth_count.cpu()


def run(command: str, shapes: Path, *options: str) -> Path:
    main([command, f"--data.root={shapes}", *OPTIONS, *options])
    return max(Path("runs", command).iterdir(), key=lambda path: int(path.name.removeprefix("version_")))


def entries(run: Path) -> list[dict[str, Any]]:
    return list(json.loads((run / "predictions.json").read_text()))


def row(run: Path) -> dict[str, float]:
    with (run / "metrics.csv").open() as file:
        return {name: float(text) for name, text in next(csv.DictReader(file)).items()}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_pycocotools_finds_our_map_in_the_file(
    command: str, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yolo_lightning.training.module_evaluation.detect", moved_annotations)
    [annotations] = (shapes / "annotations").glob("instances_val*.json")
    [images] = (shapes / "images").glob("val*")
    split = [f"--data.test_annotations={annotations}", f"--data.test_images={images}"]
    folder = run(
        command, shapes, "--save_json=true", "--save_txt=true", *(split if command == "test" else ())
    )
    with redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(folder / "predictions.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stage = "val" if command == "validate" else "test"
    metrics = row(folder)
    assert 0.1 < metrics[f"{stage}/map"] < 0.9
    assert metrics[f"{stage}/map"] == pytest.approx(evaluation.stats[0], abs=1e-6)
    assert metrics[f"{stage}/map_50"] == pytest.approx(evaluation.stats[1], abs=1e-6)

    found = entries(folder)
    sizes = {image["id"]: (image["width"], image["height"]) for image in truth.dataset["images"]}
    by_file = {path.stem: path.read_text().splitlines() for path in (folder / "labels").iterdir()}
    assert sum(map(len, by_file.values())) == len(found)
    for entry in found:
        line = by_file[Path(entry["file_name"]).stem].pop(0)
        width, height = sizes[entry["image_id"]]
        x, y, w, h = entry["bbox"]
        expected = [
            entry["category_id"] - 1, (x + w / 2) / width, (y + h / 2) / height, w / width, h / height,
            entry["score"],
        ]  # fmt: skip
        assert [float(text) for text in line.split()] == pytest.approx(expected, abs=1e-4)


def test_options_of_the_evaluation_choose_the_detections(shapes: Path) -> None:
    """A network without training finds something everywhere, of low scores."""

    def number(**options: Any) -> list[int]:
        given = [f"--model.evaluation.{name}={value}" for name, value in options.items()]
        found = Counter(
            entry["image_id"] for entry in entries(run("validate", shapes, "--save_json=true", *given))
        )
        return sorted(found.values())

    assert number(score_threshold=0, max_detections=7) == [7] * 5
    apart = number(score_threshold=0, iou_threshold=0)
    assert 0 < max(apart) < min(number(score_threshold=0, iou_threshold=0.9))
    assert number(score_threshold=0.9) == []


def test_two_validations_are_compared(
    shapes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run("validate", shapes)
    assert not {"labels", "predictions.json"} & {path.name for path in first.iterdir()}
    monkeypatch.setattr("yolo_lightning.training.module_evaluation.detect", moved_annotations)
    second = run("validate", shapes)
    capsys.readouterr()
    main(["compare", str(first), str(second)])
    said = capsys.readouterr().out
    assert f"mAP 50-95 +{row(second)['val/map']:.4f}, 95 % interval" in said
    assert "paired bootstrap over 5 validation images" in said


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("score_threshold=2", "evaluation.score_threshold is 2.0; give a number from 0 to 1"),
        ("max_detections=0", "evaluation.max_detections is 0; give 1 or more"),
    ],
)
def test_a_wrong_option_is_refused(
    option: str, sentence: str, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run("validate", shapes, f"--model.evaluation.{option}")
    assert sentence in capsys.readouterr().err
