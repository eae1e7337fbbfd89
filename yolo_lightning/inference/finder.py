"""Detections of batches of images: what ``Detector`` and ``predict`` have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.augment import normalise
from ..data.batch import Batch
from ..data.image_size import checked_size
from ..errors import InputError
from ..evaluation.detect import non_max_suppression, to_original
from ..model.network import DetectionNetwork, with_fused_norms
from .candidates import FindCandidates, in_tiles, of_ensemble, with_augmentation
from .options import Classes, FindOptions


@dataclass(frozen=True)
class Model:
    """A model as a function from images to candidates, with its strides."""

    find: FindCandidates
    stride: int  # the largest, in px
    levels: int


class Finder:
    """Finds objects in the images of batches.

    Args:
        models: models whose candidates are joined; of the same classes.
        class_names: name of each class.
        options: what is found.
        score_threshold: lowest score of a detection, 0..1, or of one of each class (C,).
        iou_threshold: IoU above which only the best of two boxes is kept, 0..1.

    Raises:
        InputError: there is no class of a name or number, or the tiles have no whole strides.
    """

    def __init__(
        self,
        models: Sequence[Model],
        class_names: Sequence[str],
        options: FindOptions,
        score_threshold: float | Tensor,
        iou_threshold: float,
    ) -> None:
        stride = max(model.stride for model in models)
        finds = [with_augmentation(m.find, m.stride, m.levels) if options.augment else m.find for m in models]
        self._find = of_ensemble(finds)
        if tile := options.tile_size:
            checked_size(tile, stride, "tile_size")
            self._find = in_tiles(self._find, tile, options.tile_overlap, stride)
        self._suppress: dict[str, Any] = {
            "max_detections": options.max_detections,
            "class_agnostic": options.class_agnostic,
            "classes": None if options.classes is None else class_numbers(options.classes, class_names),
        }
        self._thresholds = score_threshold, iou_threshold

    @torch.no_grad()
    def __call__(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Detections float32 (B, D, 6) and their counts int64 (B,), as ``evaluation.detect`` gives them."""
        device = batch.images.device
        boxes, scores = (found.to(device) for found in self._find(normalise(batch.images)))
        with torch.autocast(device.type, enabled=False):
            detections, counts = non_max_suppression(
                boxes, scores, *self._thresholds, multi_label=False, **self._suppress
            )
            return to_original(detections, batch), counts


def model_of(network: DetectionNetwork) -> Model:
    """A network of ours, on its device, as a :class:`Model`; decodes in float32 for maps of any precision."""
    fused = with_fused_norms(network)

    def find(images: Tensor) -> tuple[Tensor, Tensor]:
        maps = fused(images)
        with torch.autocast(images.device.type, enabled=False):
            return network.head.decode(maps)

    return Model(find, network.stride, len(network.strides))


def class_numbers(classes: Classes, names: Sequence[str]) -> list[int]:
    """Numbers of classes given by name or number.

    Raises:
        InputError: there is no such class.
    """
    numbers = []
    for given in [classes] if isinstance(classes, int | str) else classes:
        number = names.index(given) if given in names else int(given) if str(given).isdecimal() else -1
        if not 0 <= number < len(names):
            shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise InputError(f"classes has {given!r}, which is no class; the classes are {shown}")
        numbers.append(number)
    return numbers
