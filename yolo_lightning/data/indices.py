"""The indices of a data set: its splits read on first use, checked, and without the images of errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .annotations.findings import EVERY_IMAGE, Finding, count_images, refuse_errors
from .annotations.index import DatasetIndex, refuse_other_classes
from .annotations.reader import Classes
from .annotations.source import DataSource, Split
from .annotations.summary import summarise
from .check.splits import FIT_SECONDS, check_splits
from .image_size import Size
from .images.decode import refuse_large


@dataclass(eq=False, repr=False)
class Indices(dict[Split, DatasetIndex]):
    """The indices read so far; ``indices[split]`` reads a split on its first use.

    Raises:
        InputError: An option is out of range; see ``DetectionDataModule``.
    """

    source: DataSource
    image_size: Size  # height and width of the training images in px
    keep: bool  # keep the indices, and facts of the image files, in the cache folder
    max_megapixels: int
    on_error: str  # raise or skip
    max_skipped: float
    announce: Callable[[str], None]  # gets the summary of each split

    def __post_init__(self) -> None:
        if not 1 <= self.max_megapixels <= 1073:
            raise InputError(f"data.max_megapixels {self.max_megapixels} is out of range; use 1 to 1073")
        if self.on_error not in ("raise", "skip"):
            raise InputError(f"data.on_error '{self.on_error}' is unknown; use raise or skip")
        if not 0 <= self.max_skipped <= 1:
            raise InputError(f"data.max_skipped {self.max_skipped} is no share; use 0 to 1")

    def __missing__(self, split: Split) -> DatasetIndex:
        self.read([split])
        return self[split]

    def read(self, splits: Iterable[Split], examine: bool = False) -> None:
        """Read splits, and ``examine`` their image files; what is wrong in all of them is one report.

        Raises:
            InputError: A split is missing or wrong.
        """
        indices = {split: self.inspect(split) for split in splits if split not in self}
        if examine:
            found = check_splits(indices, self.image_size, FIT_SECONDS, self.keep)
            indices = {split: index.without(found[split]) for split, index in indices.items()}
        for split, index in indices.items():
            self.announce(summarise(index, f"{split} ({index.layout}, {index.source})"))
        findings = [finding for index in indices.values() for finding in index.findings]
        # If all labels of a split are wrong, leaving images out does not help.
        refuse_errors(f for f in findings if self.on_error == "raise" or f.image == EVERY_IMAGE)
        for split, index in indices.items():
            self._refuse_many_errors(split, index)
        self.update(indices)

    def read_for_training(self) -> None:
        """Read and examine train and val.

        Raises:
            InputError: One is missing or wrong, they have different classes, or there is nothing to learn.
        """
        self.read(("train", "val"), examine=True)
        train = self["train"]
        refuse_other_classes(train, self["val"])
        if not train.trainable.any():
            raise InputError(
                f"{train.source}: the train split has no label to learn from; add labels, or correct where "
                "they are looked for"
            )
        if self.source.keep_outlines and not train.has_outlines:
            raise InputError(
                f"{train.source}: no label of the train split has an outline that data.copy_paste could "
                "cut out; use COCO with polygons as 'segmentation' or YOLO labels that are polygons, or "
                "leave out --data.copy_paste"
            )

    def inspect(self, split: Split) -> DatasetIndex:
        """The index of a split without the images of its errors, whatever ``on_error`` is; not kept here.

        Raises:
            InputError: The split is missing, or cannot be read as a whole.
        """
        index = self.source.find_errors(split, self.keep)
        large = np.flatnonzero(index.sizes.prod(axis=1, dtype=np.int64) > self.max_megapixels * 1e6)
        errors = []
        for i in large.tolist():
            try:
                refuse_large(index.path(i), index.sizes[i].tolist(), self.max_megapixels)
            except InputError as error:
                errors.append(Finding.of_image(str(index.path(i)), error))
        return index.without(errors) if errors else index

    def _refuse_many_errors(self, split: Split, index: DatasetIndex) -> None:
        errors = [finding for finding in index.findings if finding.is_error]
        count = count_images(errors)
        total = len(index) + count
        if errors and not len(index):
            raise InputError(f"{index.source}: no image of the {split} split is without errors, {errors[0]}")
        if count > self.max_skipped * total:
            raise InputError(
                f"{index.source}: {count:,} of {total:,} images of the {split} split would be left out, more "
                f"than data.max_skipped {self.max_skipped}, such as {errors[0]}; correct the data set, or "
                "set a larger --data.max_skipped"
            )

    def classes(self) -> Classes:
        """Names and COCO ids of the classes, without reading a split if none was read so far."""
        first = next(iter(self.values()), None)
        return (first.class_names, first.category_ids) if first else self.source.classes()
