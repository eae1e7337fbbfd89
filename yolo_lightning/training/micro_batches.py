"""Micro-batches: equal parts of a batch, trained one after the other where the whole takes too much memory.

Their gradients add up to that of the whole, but each batch norm sees one part at a time: it normalises by the
statistics of fewer images, and updates its running statistics once a part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ..system.out_of_memory import describe_out_of_memory
from .step import Prepared, add_to_means

Found = TypeVar("Found")


def more_parts(images: int, parts: int) -> int | None:
    """The next number of equal parts, twice as many or a little more; None beyond the last."""
    return next((count for count in range(2 * parts, images + 1) if images % count == 0), None)


def split(batches: Sequence[Prepared], parts: int) -> list[Prepared]:
    """All batches in equal parts, in order."""
    if parts == 1:
        return list(batches)
    return [_part(batch, number, parts) for batch in batches for number in range(parts)]


def _part(batch: Prepared, number: int, parts: int) -> Prepared:
    images = len(batch.images) // parts
    image = batch.targets[:, :1] - number * images  # (R, 1)
    mask = batch.mask & (image[:, 0] >= 0) & (image[:, 0] < images)
    targets = torch.cat((image, batch.targets[:, 1:]), dim=1)
    return Prepared(
        batch.images.narrow(0, number * images, images), torch.where(mask[:, None], targets, 0.0), mask
    )


def join(found: list[dict[str, Tensor]], parts: int) -> list[dict[str, Tensor]]:
    """The loss parts of whole batches from those of their micro-batches."""
    return [add_to_means({}, found[first : first + parts], parts) for first in range(0, len(found), parts)]


def with_more_parts(
    work: Callable[[int], Found], parts: int, images: int, start_again: Callable[[str], None]
) -> Found:
    """Do work on batches of ``images`` in parts, and again in more while memory runs out.

    ``start_again`` gets a sentence for the log.

    Raises:
        RuntimeError: the work fails otherwise, or for one image.
    """
    while True:
        try:
            return work(parts)
        except RuntimeError as error:
            more, told = more_parts(images, parts), describe_out_of_memory(error)
            if not (more and told):
                raise
        # Not in the handler, where the error still holds the tensors of the step.
        parts = more
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        start_again(
            f"{told}: each batch of {images} images is trained in {parts} parts of {images // parts} from "
            "here on; a step sees as many images as before, and batch norms see one part at a time"
        )
