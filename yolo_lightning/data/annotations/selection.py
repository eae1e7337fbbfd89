"""Selection of labels and images: some classes, one class for all labels, a share of the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...errors import InputError
from .index import DatasetIndex
from .reader import Classes
from .val_share import path_hash, take_images

SINGLE_CLASS = "item"
"""Name of the class if all labels have one class, as in the classic code."""


@dataclass(frozen=True)
class Selection:
    """Choice of what is taken from a data set; the default takes all.

    Attributes:
        classes: Names or numbers (0 .. C-1) of the classes whose labels are taken; None takes all. The
            classes keep their numbers, and images without such a label become background.
        single_cls: Give all labels one class.
        fraction: Share of the training images, above 0 to 1.

    Raises:
        InputError: No class is chosen, or ``fraction`` is out of range.
    """

    classes: Sequence[int | str] | None = None
    single_cls: bool = False
    fraction: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise InputError(f"data.fraction {self.fraction} is no share; use above 0 to 1")
        if self.classes == []:
            raise InputError("data.classes has no class; name some, or leave it out to take all")

    def rename(self, classes: Classes, source: object) -> Classes:
        """The classes of the data set after the selection, which checks the chosen ones.

        Raises:
            InputError: The data set has no such class; ``source`` names its file.
        """
        self._numbers(classes[0], source)
        return ((SINGLE_CLASS,), np.array([1], np.int64)) if self.single_cls else classes

    def _numbers(self, names: Sequence[str], source: object) -> list[int]:
        """Numbers of the chosen classes."""
        numbers = []
        for given in self.classes or ():
            number = names.index(given) if given in names else given
            if not isinstance(number, int) or not 0 <= number < len(names):
                known = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
                raise InputError(
                    f"{source}: data.classes has {given!r}, but the classes are {known}, "
                    f"with numbers 0 to {len(names) - 1}; correct --data.classes"
                )
            numbers.append(number)
        return numbers

    def apply(self, index: DatasetIndex) -> DatasetIndex:
        """The chosen images and labels of an index; images of errors count as if they were in it."""
        if self.classes is not None:
            chosen = self._numbers(index.class_names, index.source)
            index = index.with_labels(np.isin(index.classes, chosen))
        if self.single_cls:
            names, ids = self.rename((index.class_names, index.category_ids), index.source)
            index = replace(index, classes=np.zeros_like(index.classes), class_names=names, category_ids=ids)
        return take_fraction(index, self.fraction) if index.split == "train" else index


def take_fraction(index: DatasetIndex, fraction: float) -> DatasetIndex:
    """A share of the images of an index, at least one: those whose paths have the smallest hashes.

    So a smaller share is part of a larger one. Findings about other images are left out.
    """
    if fraction == 1 or not len(index):
        return index
    hashes = np.array([path_hash(path, index.root, "fraction") for path in index.paths()])
    count = max(1, round(fraction * len(index)))
    limit = np.sort(hashes)[count - 1]
    taken = take_images(index, hashes <= limit, lambda path: path_hash(path, index.root, "fraction") <= limit)
    return replace(taken, layout=f"{index.layout}, {fraction:.4g} of the images (--data.fraction)")
