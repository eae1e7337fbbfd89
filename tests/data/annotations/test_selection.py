from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import labelled_sets as sets
from tests.support.tiny_data import write_yolo
from yolo_lightning.data.module import DetectionDataModule
from yolo_lightning.errors import InputError

CAT, DOG = "0 0.5 0.5 0.2 0.2\n", "1 0.3 0.3 0.2 0.4\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    labels: dict[str, str | None] = {f"{i}": (CAT + DOG if i % 2 else DOG) for i in range(20)}
    write_yolo(tmp_path, labels)
    write_yolo(tmp_path, {"a": CAT, "b": DOG + DOG.replace("0.3", "0.6"), "c": None}, split="val")
    return tmp_path


def data(root: Path, **options: Any) -> DetectionDataModule:
    return DetectionDataModule(root=str(root), image_size=64, batch_size=2, num_workers=0, **options)


@pytest.mark.parametrize("classes", [["dog"], [1]])
def test_classes_keep_their_numbers_and_other_labels_are_left_out(
    root: Path, classes: Sequence[int | str]
) -> None:
    module = data(root, classes=classes)
    assert module.class_names == ("cat", "dog")
    index = module.index("val")
    assert len(index) == 3 and index.classes.tolist() == [1, 1]
    assert [len(index.labels(i)) for i in range(3)] == [0, 2, 0]
    assert np.allclose(index.truth(1)[1, 1:5], [30, 16, 42, 32])


def test_all_classes_by_name_and_number_change_nothing(root: Path) -> None:
    chosen, all_of_them = data(root, classes=["cat", 1]).index("train"), data(root).index("train")
    assert chosen.classes.tolist() == all_of_them.classes.tolist()
    assert chosen.offsets.tolist() == all_of_them.offsets.tolist()


@pytest.mark.parametrize("wrong", ["bird", 2, -1])
def test_a_class_that_is_not_there_is_refused(root: Path, wrong: int | str) -> None:
    module = data(root, classes=["cat", wrong])
    with pytest.raises(InputError, match=f"data.classes has {wrong!r}, but the classes are cat, dog"):
        _ = module.class_names
    with pytest.raises(InputError, match="numbers 0 to 1"):
        module.index("train")


def test_a_single_class_has_all_labels(root: Path) -> None:
    module = data(root, single_cls=True)
    module.build_indices("fit")
    index = module.index("train")
    assert module.class_names == ("item",) and index.classes.tolist() == [0] * 30
    assert np.array_equal(index.boxes, data(root).index("train").boxes)
    assert data(root, single_cls=True, classes=["dog"]).index("val").classes.tolist() == [0, 0]


def test_a_fraction_is_the_same_images_each_time_and_part_of_a_larger_one(root: Path) -> None:
    chosen = {f: set(data(root, fraction=f).index("train").paths()) for f in (0.01, 0.25, 0.5, 1.0)}
    assert [len(paths) for paths in chosen.values()] == [1, 5, 10, 20]
    assert chosen[0.01] < chosen[0.25] < chosen[0.5] < chosen[1.0]
    assert chosen[0.5] == set(data(root, fraction=0.5).index("train").paths())
    assert len(data(root, fraction=0.25).index("val")) == 3


def test_errors_of_images_out_of_the_fraction_are_not_raised(root: Path) -> None:
    taken = data(root, fraction=0.5).index("train").paths()
    left = next(path for path in data(root).index("train").paths() if path not in taken)
    (root / "labels" / "train" / f"{Path(left).stem}.txt").write_text("9 0.5 0.5 0.1 0.1\n")
    assert data(root, fraction=0.5, cache="none").index("train").paths() == taken
    with pytest.raises(InputError, match="9"):
        data(root, cache="none").index("train")


@pytest.mark.parametrize("fraction", [0.0, 1.5, -0.1, float("nan")])
def test_a_fraction_out_of_range_is_refused(root: Path, fraction: float) -> None:
    with pytest.raises(InputError, match="above 0 to 1"):
        data(root, fraction=fraction)


def test_a_split_is_shared_before_a_fraction_is_taken(tmp_path: Path) -> None:
    for n in range(40):
        sets.picture(tmp_path / f"{n}.png")
        sets.put(tmp_path / f"{n}.xml", sets.voc_xml(f"{n}.png", sets.voc_object(box=(n, 1, n + 5, 9))))
    whole, half = data(tmp_path), data(tmp_path, fraction=0.5)
    assert half.index("val").paths() == whole.index("val").paths()
    train, chosen = whole.index("train").paths(), half.index("train").paths()
    assert len(chosen) == round(len(train) / 2) and set(chosen) < set(train)


def test_no_class_at_all_is_refused(root: Path) -> None:
    with pytest.raises(InputError, match=r"data\.classes has no class; name some, or leave it out"):
        data(root, classes=[])
