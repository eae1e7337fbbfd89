"""Predictions on disk: a COCO results list and annotated pictures."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from ..data.batch import Batch
from ..data.images.decode import header_size, read_image, refuse_large
from ..errors import InputError
from ..monitoring.pictures.draw_boxes import Pixels, class_colour, draw_boxes, legible
from ..system.files import write_whole
from ..system.text import printable
from ..training.contracts import TrainsDetections

_CATEGORIES = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]  # by COCO's category id
COCO_IDS = [i for i, name in enumerate(_CATEGORIES) if name not in ("__background__", "N/A")]
"""Category ids of COCO's 80 classes: 1..90 without the ten ids that COCO never annotates."""
COCO_NAMES = [_CATEGORIES[i] for i in COCO_IDS]

Found = dict[int, tuple[int, npt.NDArray[np.float32]]]
"""Position among the sources -> id of the image, and (n, 6) x1, y1, x2, y2 in px, score, class."""

Entry = TypeVar("Entry")

_MOST_LINES = 20
"""Number of images up to which the detections of each are printed."""
_WRITABLE = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


class PredictionWriter(Callback):
    """Writes the detections of ``predict`` to the run directory (``trainer.default_root_dir``).

    ``predictions.json`` is a COCO results list, ordered by image. A detection has ``image_id``,
    ``file_name``, ``category_id``, ``name`` of the class, ``bbox`` (x, y, width, height in pixels of the
    original image) and ``score`` (0..1).

    * ``image_id`` is the number in the file name if all file names are different numbers, as COCO's are;
      else the position of the image among the sources, from 1.
    * ``category_id`` is that of the training data if the checkpoint has it; else COCO's if the class names
      are COCO's 80, as in official weights; else the class plus one.
    * ``file_name`` is relative to the common folder of all sources.

    Images that cannot be read are named at the end.

    ``images/`` has the annotated pictures under the same relative names, so that equal names from
    different folders do not overwrite each other.

    Args:
        draw: write annotated pictures, which takes longer than the detection itself.
    """

    def __init__(self, draw: bool = True) -> None:
        self.draw = draw
        self._found: Found = {}
        self._unreadable: dict[int, str] = {}
        self._directory = Path()
        self._paths: list[Path] = []
        self._file_names: list[str] = []
        self._class_names: list[str] = []
        self._drawn_names: list[str] = []
        self._category_ids: list[int] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._found, self._unreadable = {}, {}
        # With torchrun only rank zero knows the run directory.
        self._directory = Path(trainer.strategy.broadcast(trainer.default_root_dir))
        self._paths = [Path(path) for path in trainer.datamodule.predict_paths]  # type: ignore[attr-defined]
        self._file_names = _relative_names(self._paths)
        module = cast(TrainsDetections, pl_module)
        self._class_names = module.label_names
        self._drawn_names = legible(self._class_names) if self.draw else []
        guess = COCO_IDS if self._class_names == COCO_NAMES else list(range(1, len(self._class_names) + 1))
        self._category_ids = module.category_ids or guess

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: tuple[Tensor, Tensor],
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        detections, counts = outputs
        tables = detections.float().cpu().numpy()  # (B, D, 6)
        readable = batch.original_sizes.any(1).tolist()
        per_image = zip(batch.index.tolist(), batch.image_ids.tolist(), counts.tolist(), tables, strict=True)
        for is_readable, (index, image_id, count, table) in zip(readable, per_image, strict=True):
            if not is_readable:
                largest = trainer.datamodule.max_megapixels  # type: ignore[attr-defined]
                self._unreadable[index] = _why_unreadable(self._paths[index], largest)
                continue
            self._found[index] = image_id, table[:count].copy()
            if self.draw:
                picture = draw_detections(read_image(self._paths[index]), table[:count], self._drawn_names)
                _write_picture(self._directory / "images" / self._file_names[index], picture)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found, unreadable = gather(self._found), gather(self._unreadable)
        if not trainer.is_global_zero:
            return
        if unreadable and not found:
            raise InputError(f"none of {len(unreadable)} images can be read: {min(unreadable.items())[1]}")
        path = self._directory / "predictions.json"
        write_json(path, to_coco(found, self._file_names, self._category_ids, self._class_names))
        lines = _summary(found, self._file_names, self._class_names)
        if unreadable:
            lines.append(f"left out     {len(unreadable)} of {len(found) + len(unreadable)} images:")
            lines += [f"             {reason}" for _, reason in sorted(unreadable.items())]
        lines.append(f"predictions  {path}")
        if self.draw:
            lines.append(f"pictures     {path.parent / 'images'}")
        pl_module.print("\n".join(map(printable, lines)))


def to_coco(
    found: Found, file_names: Sequence[str], category_ids: Sequence[int], class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Convert detections to a COCO results list; file names are by position, ids and names by class."""
    return [
        {
            "image_id": image_id,
            "file_name": file_names[index],
            "category_id": category_ids[int(label)],
            "name": class_names[int(label)],
            "bbox": [round(side, 2) for side in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(score, 5),
        }
        for index, (image_id, rows) in sorted(found.items())
        for x1, y1, x2, y2, score, label in rows.tolist()
    ]


def write_json(path: Path, results: list[dict[str, Any]]) -> None:
    """Write a list as JSON, one object a line; readers see the old file or the whole new one."""
    lines = ",\n".join(json.dumps(result, ensure_ascii=False) for result in results)
    write_whole(path, f"[\n{lines}\n]\n" if results else "[]\n")


def gather(found: dict[int, Entry]) -> dict[int, Entry]:
    """Gather what all processes have found; every process must call it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return found
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, found)
    return {index: entry for part in parts for index, entry in part.items()}


def draw_detections(image: Pixels, rows: npt.NDArray[np.float32], names: Sequence[str]) -> Pixels:
    """Draw a box for each detection on a copy of an image, the highest score on top.

    Args:
        image: uint8 BGR (H, W, 3).
        rows: (n, 6) x1, y1, x2, y2 in px, score, class.
        names: of the classes, as ``pictures.legible`` gives them.
    """
    rows = rows[np.argsort(rows[:, 4])]
    scores, labels = rows[:, 4].tolist(), rows[:, 5].astype(int).tolist()
    captions = [f"{names[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
    line_px = max(1, round(0.0015 * (image.shape[0] + image.shape[1])))
    rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
    colours = [class_colour(label) for label in labels]
    drawn = draw_boxes(rgb, rows[:, :4], captions, colours, line_px, font_px=max(10, 7 * line_px))
    return np.asarray(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), np.uint8)


def _why_unreadable(path: Path, max_megapixels: int) -> str:
    """Read an image again: the sentence of a worker is lost on its way."""
    try:
        refuse_large(path, header_size(path), max_megapixels)
        read_image(path)
    except InputError as error:
        return str(error)
    return f"{path}: could not be read for a moment; predict it again"


def _write_picture(path: Path, picture: Pixels) -> None:
    if path.suffix.lower() not in _WRITABLE:
        path = path.with_name(path.name + ".jpg")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), picture):
        raise OSError(f"{path}: the picture cannot be written")


def _relative_names(paths: Sequence[Path]) -> list[str]:
    """Make paths relative to their common folder."""
    absolute = [os.path.abspath(path) for path in paths]
    if not absolute:
        return []
    common = os.path.commonpath([os.path.dirname(path) for path in absolute])
    return [os.path.relpath(path, common) for path in absolute]


def _summary(found: Found, file_names: Sequence[str], class_names: Sequence[str]) -> list[str]:
    """Lines with the detections of each image, if there are few images, and of all together."""
    counts = {index: Counter(found[index][1][:, 5].astype(int).tolist()) for index in sorted(found)}
    lines = [f"{file_names[i]}: {_in_words(count, class_names)}" for i, count in counts.items()]
    total: Counter[int] = sum(counts.values(), Counter())
    empty = sum(not count for count in counts.values())
    words = f"{len(counts)} images: {_in_words(total, class_names)}; nothing in {empty} of them"
    return [*(lines if len(lines) <= _MOST_LINES else ()), words]


def _in_words(count: Counter[int], class_names: Sequence[str]) -> str:
    return ", ".join(f"{n} {class_names[label]}" for label, n in count.most_common()) or "nothing"
