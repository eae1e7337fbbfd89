from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import Tensor

from yolo_lightning.data.annotations.index import ids_from_paths
from yolo_lightning.data.loading.sources import Sources
from yolo_lightning.inference import media, predictions
from yolo_lightning.inference.options import PredictOptions
from yolo_lightning.inference.predictions import PredictionWriter, gather
from yolo_lightning.inference.result_files import COCO_IDS, COCO_NAMES
from yolo_lightning.monitoring.pictures.draw_boxes import class_colour
from yolo_lightning.training.contracts import TrainsDetections

BOXES = [[10.0, 20.0, 40.0, 60.0, 0.875, 1.0], [5.123, 6.0, 9.0, 30.126, 0.25, 0.0]]


class Images(LightningDataModule):
    """Batches of two images; the i-th image of the sources has i detections, two at most."""

    def __init__(self, paths: list[Path]) -> None:
        super().__init__()
        self.predict_sources = Sources(paths, [])

    def predict_dataloader(self) -> Any:
        image_ids = torch.from_numpy(ids_from_paths([str(path) for path in self.predict_sources.images]))
        index = torch.arange(len(image_ids))
        sizes = torch.ones(len(index), 2)
        batches = [
            SimpleNamespace(index=i, image_ids=image_ids[i], original_sizes=sizes[i]) for i in index.split(2)
        ]
        return torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


class Found(LightningModule, TrainsDetections):
    def __init__(self, class_names: list[str] | None, num_classes: int = 2) -> None:
        super().__init__()
        self.names = class_names or [str(label) for label in range(num_classes)]
        self.category_ids: list[int] | None = None

    @property
    def label_names(self) -> list[str]:
        return self.names

    def predict_step(self, batch: Any, batch_idx: int) -> tuple[Tensor, Tensor]:
        padded = torch.tensor([*BOXES, [0.0] * 6])
        return padded.expand(len(batch.index), 3, 6), batch.index.clamp(max=2)


def images(*paths: Path) -> list[Path]:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), np.full((80, 100, 3), 90, np.uint8))
    return list(paths)


def predict(
    root: Path, paths: list[Path], module: LightningModule, ids: list[int] | None = None, **options: Any
) -> tuple[list[dict[str, Any]], Any]:
    trainer = Trainer(
        default_root_dir=root, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[PredictionWriter(PredictOptions(**options))],
    )  # fmt: skip
    module.category_ids = ids
    returned = trainer.predict(module, datamodule=Images(paths))
    return json.loads((root / "predictions.json").read_text(encoding="utf-8")), returned


def test_results_are_a_coco_list(tmp_path: Path) -> None:
    paths = images(*(tmp_path / "in" / name for name in ("a.jpg", "b.jpg", "c.png")))
    results, returned = predict(tmp_path / "out", paths, Found(["red cell", "Blutplättchen"]))
    first = {"category_id": 2, "name": "Blutplättchen", "bbox": [10, 20, 30, 40], "score": 0.875}
    second = {"category_id": 1, "name": "red cell", "bbox": [5.12, 6, 3.88, 24.13], "score": 0.25}
    assert results == [
        {"image_id": 2, "file_name": "b.jpg", **first},
        {"image_id": 3, "file_name": "c.png", **first},
        {"image_id": 3, "file_name": "c.png", **second},
    ]
    assert [part[0].shape for part in returned] == [(2, 3, 6), (1, 3, 6)]


def test_numeric_names_are_image_ids(tmp_path: Path) -> None:
    paths = images(tmp_path / "000000000139.jpg", tmp_path / "000000000285.jpg")
    results, _ = predict(tmp_path / "out", paths, Found(["a", "b"]))
    assert [result["image_id"] for result in results] == [285]


@pytest.mark.parametrize(
    ("names", "num_classes", "ids", "expected"),
    [
        (["a", "b"], 2, [7, 90], (90, "b")),  # the data set's
        (["a", "b"], 2, None, (2, "b")),
        (None, 2, None, (2, "1")),
        (COCO_NAMES, 80, None, (2, "bicycle")),
    ],
)
def test_category_ids(
    names: list[str] | None,
    num_classes: int,
    ids: list[int] | None,
    expected: tuple[int, str],
    tmp_path: Path,
) -> None:
    paths = images(tmp_path / "a.jpg", tmp_path / "b.jpg")
    results, _ = predict(tmp_path / "out", paths, Found(names, num_classes), ids, save_media=False)
    assert [(result["category_id"], result["name"]) for result in results] == [expected]


def test_ids_of_coco() -> None:
    by_name = dict(zip(COCO_NAMES, COCO_IDS, strict=True))
    # From instances_val2017.json: the classes after each gap of its ids.
    known = {"person": 1, "fire hydrant": 11, "stop sign": 13, "umbrella": 28, "handbag": 31, "bottle": 44,
             "wine glass": 46, "dining table": 67, "toilet": 70, "tv": 72, "refrigerator": 82, "book": 84,
             "toothbrush": 90}  # fmt: skip
    assert {name: by_name[name] for name in known} == known
    assert len(by_name) == 80


def test_pictures_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    paths = images(tmp_path / "in/left/1.jpg", tmp_path / "in/right/1.jpg", tmp_path / "in/2.png")
    results, _ = predict(tmp_path / "out", paths, Found(["a", "b"]))
    folder = tmp_path / "out" / "images"
    written = {str(path.relative_to(folder)) for path in folder.rglob("*.*")}
    assert written == {"left/1.jpg", "right/1.jpg", "2.png"}
    assert {result["file_name"] for result in results} == {"right/1.jpg", "2.png"}
    untouched, drawn = (cv2.imread(str(folder / name)) for name in ("left/1.jpg", "2.png"))
    assert untouched.shape == drawn.shape == (80, 100, 3)
    assert np.abs(untouched.astype(int) - 90).max() <= 2
    assert tuple(drawn[60, 25, ::-1]) == class_colour(1)  # the lower edge of the first box, in RGB


def test_pictures_that_differ_in_their_suffix_have_labels_of_their_own(tmp_path: Path) -> None:
    paths = images(*(tmp_path / name for name in ("0.jpg", "a.jpg", "a.png", "b.x.jpg", "b.jpg")))
    predict(tmp_path / "out", paths, Found(["a", "b"]), save_txt=True)
    written = {path.name for path in (tmp_path / "out/labels").iterdir()}
    assert written == {"a_jpg.txt", "a_png.txt", "b.x.txt", "b.txt"}  # nothing is found in the first


def test_a_format_that_opencv_cannot_write_becomes_jpeg(tmp_path: Path) -> None:
    [source] = images(tmp_path / "camera.jpg")
    source = source.rename(tmp_path / "camera.mpo")
    predict(tmp_path / "out", [source], Found(["a", "b"]))
    assert cv2.imread(str(tmp_path / "out/images/camera.mpo.jpg")).shape == (80, 100, 3)


def test_what_was_found_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = images(*(tmp_path / f"{name}.jpg" for name in "abcd"))
    predict(tmp_path / "out", paths, Found(["person", "bus"]))
    assert capsys.readouterr().out.splitlines() == [
        "a.jpg: nothing",
        "b.jpg: 1 bus",
        "c.jpg: 1 bus, 1 person",
        "d.jpg: 1 bus, 1 person",
        "4 images: 3 bus, 2 person; nothing in 1 of them",
        f"predictions  {tmp_path}/out/predictions.json",
        f"pictures     {tmp_path}/out/images",
    ]


def test_many_images_are_only_summed_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "_MOST_LINES", 3)
    paths = images(*(tmp_path / f"{name}.jpg" for name in "abcd"))
    predict(tmp_path / "out", paths, Found(["person", "bus"]), save_media=False)
    out = capsys.readouterr().out
    assert out.startswith("4 images: 3 bus, 2 person")
    assert "pictures" not in out and not (tmp_path / "out/images").exists()


def test_a_class_is_called_by_its_name_where_the_font_has_its_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def note(image: Any, boxes: Any, captions: list[str], *_: Any, **__: Any) -> Any:
        told.extend(captions)
        return image

    monkeypatch.setattr(media, "draw_boxes", note)
    predict(tmp_path / "out", images(tmp_path / "a.jpg", tmp_path / "b.jpg"), Found(["a", "Blutplättchen"]))
    predict(tmp_path / "out", images(tmp_path / "a.jpg", tmp_path / "b.jpg"), Found(["a", "猫"]))
    assert told == ["Blutplättchen 0.88", "class 1 0.88"]


def _gather_two(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    rows = np.full((rank + 1, 6), rank, np.float32)
    found = gather({1 - rank: (10 + rank, rows.tolist())})
    if rank == 0:
        (Path(folder) / "gathered.json").write_text(json.dumps(sorted(found.items())))
    torch.distributed.destroy_process_group()


def test_two_processes_gather_what_they_found(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_gather_two, (str(tmp_path),), nprocs=2)  # type: ignore[attr-defined]
    results = json.loads((tmp_path / "gathered.json").read_text())
    assert results == [[0, [11, [[1.0] * 6] * 2]], [1, [10, [[0.0] * 6]]]]


class Interrupted(Found):
    """Ctrl-C in the second batch."""

    def predict_step(self, batch: Any, batch_idx: int) -> tuple[Tensor, Tensor]:
        if batch_idx == 1:
            raise KeyboardInterrupt
        return super().predict_step(batch, batch_idx)


def test_what_was_found_until_an_interrupt_is_written(tmp_path: Path) -> None:
    paths = images(*(tmp_path / f"{name}.jpg" for name in "abcd"))
    with pytest.raises(SystemExit):
        predict(tmp_path / "out", paths, Interrupted(["a", "b"]))
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [result["file_name"] for result in results] == ["b.jpg"]
