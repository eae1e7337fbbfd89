"""Detections of ``validate`` and ``test`` as files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer

from ..data.batch import Batch
from ..system.text import printable
from ..training.contracts import TrainsDetections
from .predictions import gather, source_names, stems_of
from .result_files import Found, to_coco, write_json, write_txt


@dataclass(frozen=True)
class EvaluationOptions:
    """What ``validate`` and ``test`` write to the run directory beside their metrics."""

    save_json: bool = False
    """Write predictions.json, a COCO results list, as pycocotools loads it."""
    save_txt: bool = False
    """Write a YOLO label file with scores for each image in which something is found, in labels/."""


class EvaluationWriter(Callback):
    """Writes the evaluated detections of ``validate`` and ``test``, with the ids of the data set.

    Args:
        options: what is written.
    """

    def __init__(self, options: EvaluationOptions) -> None:
        self.options = options
        self._found: dict[int, Found] = {}
        self._names: list[str] = []
        self._directory = Path()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # With torchrun only rank zero knows the run directory.
        self._directory = Path(trainer.strategy.broadcast(trainer.default_root_dir))
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        index = data.indices["test" if trainer.testing else "val"]
        self._names = source_names([str(index.path(position)) for position in range(len(index))])
        self._stems = stems_of(self._names)
        self._found = {}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        tables = outputs["detections"].float().cpu().numpy()  # (B, D, 6)
        facts = (batch.index, batch.image_ids, batch.original_sizes, outputs["counts"])
        for table, position, image_id, size, count in zip(tables, *(f.tolist() for f in facts), strict=True):
            found = Found(image_id, self._names[position], None, table[:count].copy())
            if self.options.save_json:
                self._found[position] = found
            if self.options.save_txt and count:
                path = self._directory / "labels" / f"{self._stems[position]}.txt"
                write_txt(path, found.table, (size[0], size[1]), with_scores=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        found = gather(self._found)
        if not trainer.is_global_zero:
            return
        if self.options.save_json:
            module, path = cast(TrainsDetections, pl_module), self._directory / "predictions.json"
            in_order = (found[position] for position in sorted(found))
            write_json(path, to_coco(in_order, module.category_ids or [], module.label_names))
            pl_module.print(printable(f"predictions  {path}"))
        if (labels := self._directory / "labels").is_dir():
            pl_module.print(printable(f"labels       {labels}"))

    on_test_start = on_validation_start
    on_test_batch_end = on_validation_batch_end
    on_test_end = on_validation_end
