"""The callbacks of ``predict``: what is found, and what is written to the run directory."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ..data.batch import Batch
from ..data.images.decode import header_size, read_rgb, refuse_large
from ..data.loading.sources import is_stream
from ..data.loading.video import Frame, frame_number, stream_of
from ..errors import InputError
from ..monitoring.pictures.draw_boxes import Pixels
from ..system.text import printable
from ..training.contracts import TrainsDetections
from ..training.module import YOLOv5
from .detections import in_words
from .finder import Finder, model_of
from .media import DrawOptions, VideoFile, draw_detections, write_crops, write_picture
from .options import PredictOptions
from .result_files import COCO_IDS, COCO_NAMES, Found, to_coco, write_csv, write_json, write_txt
from .trained_model import load_network

Entry = TypeVar("Entry")
Table = npt.NDArray[np.float32]

RESULTS = ("predictions.json", "predictions.csv", "images", "videos", "labels", "crops")
"""Files and folders that are written to the run directory."""
_MOST_LINES = 20
"""Number of images up to which the detections of each are printed."""


class Finding(Callback):
    """Has the module of ``predict`` find what :class:`PredictOptions` say.

    Args:
        options: what is found.

    Raises:
        InputError: a file of the ensemble cannot be read.
    """

    def __init__(self, options: PredictOptions) -> None:
        self.options = options
        paths = options.ensemble or []
        paths = [paths] if isinstance(paths, str) else paths
        self._others = [(path, *load_network(path)[:2]) for path in paths]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        data.predict_every = self.options.video_stride
        data.predict_whole = self.options.tile_size > 0
        data.predict_stride = max((facts.stride for _, _, facts in self._others), default=1)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = cast(YOLOv5, pl_module)
        models = [model_of(module.network)]
        for path, network, facts in self._others:
            if list(facts.class_names) != module.label_names:
                raise InputError(
                    f"{path}: has other classes than the first model; give models of one data set"
                )
            network.to(memory_format=torch.channels_last)
            network.to(module.device).eval()
            models.append(model_of(network))
        names, thresholds = module.label_names, (module.least_scores, module.iou_threshold)
        module.find = Finder(models, names, self.options, *thresholds)


class _Stream:
    """What was found in a video or stream so far."""

    def __init__(self) -> None:
        self.frames = 0
        self.counts: Counter[int] = Counter()
        self.video: VideoFile | None = None


class _Results(NamedTuple):
    """What one process has found, by position."""

    found: dict[int, tuple[int, Table]]  # id of the image, and its (n, 6) table
    unreadable: dict[int, str]  # sentences about images and streams
    streams: dict[int, tuple[int, Counter[int]]]  # frames of a stream, and detections of each class


class PredictionWriter(Callback):
    """Writes the detections of ``predict`` to the run directory (``trainer.default_root_dir``).

    ``predictions.json`` is a COCO results list, ordered by image. A detection has ``image_id``,
    ``file_name``, ``category_id``, ``name`` of the class, ``bbox`` (x, y, width, height in pixels of the
    original image) and ``score`` (0..1); that of a video has ``frame``, from 0.

    * ``image_id`` is the number in the file name if all file names are different numbers, as COCO's are;
      else the position of the image among the sources, from 1. Frames have the numbers that follow.
    * ``category_id`` is that of the training data if the checkpoint has it; else COCO's if the class names
      are COCO's 80, as in official weights; else the class plus one.
    * ``file_name`` is relative to the common folder of all sources.

    Images that cannot be read are named at the end.

    ``images/`` has the annotated pictures under the same relative names, so that equal names from
    different folders do not overwrite each other; ``videos/``, ``labels/`` and ``crops/`` likewise.

    Args:
        options: what is written.
    """

    def __init__(self, options: PredictOptions = PredictOptions()) -> None:
        self.options = options
        self._drawing = DrawOptions(options.line_width, options.hide_labels, options.hide_scores)
        self._keeps_frames = options.save_json or options.save_csv
        self._found: dict[int, tuple[int, Table]] = {}
        self._unreadable: dict[int, str] = {}
        self._streams: dict[int, _Stream] = {}
        self._directory = Path()
        self._paths: list[Path] = []
        self._file_names: list[str] = []
        self._stream_names: list[str] = []
        self._file_stems: list[str] = []
        self._stream_stems: list[str] = []
        self._class_names: list[str] = []
        self._category_ids: list[int] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._found, self._unreadable, self._streams = {}, {}, {}
        # With torchrun only rank zero knows the run directory.
        self._directory = Path(trainer.strategy.broadcast(trainer.default_root_dir))
        images, streams = trainer.datamodule.predict_sources  # type: ignore[attr-defined]
        self._paths = [Path(path) for path in images]
        names = source_names([*map(str, images), *streams])
        self._file_names, self._stream_names = names[: len(images)], names[len(images) :]
        stems = stems_of(names)
        self._file_stems, self._stream_stems = stems[: len(images)], stems[len(images) :]
        module = cast(TrainsDetections, pl_module)
        self._class_names = module.label_names
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
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        readable = batch.original_sizes.any(1).tolist()
        per_image = zip(batch.index.tolist(), batch.image_ids.tolist(), counts.tolist(), tables, strict=True)
        for is_readable, (index, image_id, count, padded) in zip(readable, per_image, strict=True):
            table = padded[:count].copy()
            if stream_of(index) is not None:
                self._write_frame(data.predict_loader.under_way.pop(index), table)
                if self._keeps_frames:
                    self._found[index] = 0, table
            elif is_readable:
                self._found[index] = image_id, table
                self._write_image(index, table)
            else:
                self._unreadable[index] = _why_unreadable(self._paths[index], data.max_megapixels)

    def _write_image(self, index: int, table: Table) -> None:
        options = self.options
        if not (options.save_media or options.save_txt or options.save_crop):
            return
        path, name = self._paths[index], self._file_names[index]
        image = read_rgb(path, header_size(path))
        if options.save_media:
            picture = draw_detections(image, table, self._class_names, self._drawing)
            write_picture(self._directory / "images" / name, picture)
        self._write_objects(self._file_stems[index], image, table)

    def _write_frame(self, frame: Frame, table: Table) -> None:
        stream = self._streams.setdefault(frame.stream, _Stream())
        name = self._stream_names[frame.stream]
        stream.frames += 1
        stream.counts.update(table[:, 5].astype(int).tolist())
        if self.options.save_media:
            if stream.video is None:
                path = self._directory / "videos" / (name if name.lower().endswith(".mp4") else f"{name}.mp4")
                stream.video = VideoFile(path, frame.per_second / self.options.video_stride)
            stream.video.add(draw_detections(frame.pixels, table, self._class_names, self._drawing))
        self._write_objects(f"{self._stream_stems[frame.stream]}_{frame.number}", frame.pixels, table)

    def _write_objects(self, name: str, image: Pixels, table: Table) -> None:
        """Write the label file and the crops of an image, unless nothing was found in it."""
        if self.options.save_txt and len(table):
            path = self._directory / "labels" / f"{name}.txt"
            write_txt(path, table, image.shape[:2], self.options.save_conf)
        if self.options.save_crop:
            write_crops(self._directory / "crops", name.replace(os.sep, "_"), image, table, self._class_names)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close_videos()
        if isinstance(exception, KeyboardInterrupt) and trainer.world_size == 1:  # the only end of a camera
            self._write_lists(pl_module)

    def _close_videos(self) -> None:
        for stream in self._streams.values():
            if stream.video:
                stream.video.close()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close_videos()
        self._write_lists(pl_module)

    def _write_lists(self, pl_module: LightningModule) -> None:
        """Write the files about all images and frames, and print what was found and where it is."""
        streams = {number: (stream.frames, stream.counts) for number, stream in self._streams.items()}
        if self._stream_names:
            self._unreadable |= pl_module.trainer.datamodule.predict_loader.unreadable  # type: ignore[attr-defined]
        results = _Results(gather(self._found), gather(self._unreadable), gather(streams))
        if not pl_module.trainer.is_global_zero:
            return
        if results.unreadable and not results.found and not results.streams:
            reason = min(results.unreadable.items())[1]
            raise InputError(f"none of {len(results.unreadable)} {self._kind} can be read: {reason}")
        lines = self._summary(results)
        if self.options.save_json:
            path = self._directory / "predictions.json"
            write_json(path, to_coco(self._in_order(results.found), self._category_ids, self._class_names))
            lines.append(f"predictions  {path}")
        if self.options.save_csv:
            path = self._directory / "predictions.csv"
            write_csv(path, self._in_order(results.found), self._class_names)
            lines.append(f"table        {path}")
        written = (
            ("pictures", "images", self.options.save_media),
            ("videos", "videos", self.options.save_media),
            ("labels", "labels", self.options.save_txt),
            ("crops", "crops", self.options.save_crop),
        )
        for title, folder, is_asked in written:
            if is_asked and (self._directory / folder).is_dir():
                lines.append(f"{title:<12} {self._directory / folder}")
        pl_module.print("\n".join(map(printable, lines)))

    @property
    def _kind(self) -> str:
        return "sources" if self._stream_names else "images"

    def _in_order(self, found: dict[int, tuple[int, Table]]) -> Iterator[Found]:
        """Detections of all images, then of all frames."""
        next_id = 1 + max((image_id for image_id, _ in found.values()), default=0)
        for position, (image_id, table) in sorted(found.items()):
            if (stream := stream_of(position)) is None:
                yield Found(image_id, self._file_names[position], None, table)
            else:
                yield Found(next_id, self._stream_names[stream], frame_number(position), table)
                next_id += 1

    def _summary(self, results: _Results) -> list[str]:
        """Lines with the detections of each image, if there are few, of all together, and of streams."""
        found = {p: table for p, (_, table) in sorted(results.found.items()) if stream_of(p) is None}
        counts = {p: Counter(table[:, 5].astype(int).tolist()) for p, table in found.items()}
        names = self._class_names
        lines = [f"{self._file_names[p]}: {in_words(count, names)}" for p, count in counts.items()]
        if len(lines) > _MOST_LINES:
            lines = []
        if counts:
            total: Counter[int] = sum(counts.values(), Counter())
            empty = sum(not count for count in counts.values())
            lines.append(f"{len(counts)} images: {in_words(total, names)}; nothing in {empty} of them")
        for stream, (frames, count) in sorted(results.streams.items()):
            lines.append(f"{self._stream_names[stream]}: {frames} frames: {in_words(count, names)}")
        if bad := results.unreadable:
            of_all = len(counts) + len(results.streams) + len(bad)
            lines.append(f"left out     {len(bad)} of {of_all} {self._kind}:")
            lines += [f"             {reason}" for _, reason in sorted(bad.items())]
        return lines


def gather(found: dict[int, Entry]) -> dict[int, Entry]:
    """Gather what all processes have found; every process must call it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return found
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, found)
    return {index: entry for part in parts for index, entry in part.items()}


def _why_unreadable(path: Path, max_megapixels: int) -> str:
    """Read an image again: the sentence of a worker is lost on its way."""
    try:
        size = header_size(path)
        refuse_large(path, size, max_megapixels)
        read_rgb(path, size)
    except InputError as error:
        return str(error)
    return f"{path}: could not be read for a moment; predict it again"


def source_names(sources: Sequence[str]) -> list[str]:
    """Names of sources: paths relative to their common folder; addresses and cameras as file names."""
    absolute = [os.path.abspath(source) for source in sources if not is_stream(source)]
    common = os.path.commonpath([os.path.dirname(path) for path in absolute]) if absolute else ""
    return [
        f"camera{source}" if source.isdecimal()
        else re.sub(r"\W+", "_", source).strip("_") if is_stream(source)
        else os.path.relpath(os.path.abspath(source), common)
        for source in sources
    ]  # fmt: skip


def stems_of(names: Sequence[str]) -> list[str]:
    """Names without their suffixes; a.jpg and a.png, which would share one, are a_jpg and a_png."""
    stems = [os.path.splitext(name)[0] for name in names]
    counts = Counter(stems)
    return [
        stem if counts[stem] == 1 else f"{stem}_{name[len(stem) + 1 :]}"
        for stem, name in zip(stems, names, strict=True)
    ]
