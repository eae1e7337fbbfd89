from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import pytest

from tests.data.check.test_look_alikes import encoded, scene
from yolo_lightning.data.annotations.findings import Finding
from yolo_lightning.data.annotations.source import DataSource, Split
from yolo_lightning.data.check.splits import check_splits

TRAIN, VAL = "train", "val"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six scenes in train and three others in val, each with a label."""
    for n in range(9):
        folder = TRAIN if n < 6 else VAL
        for kind in ("images", "labels"):
            (tmp_path / kind / folder).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "images" / folder / f"{n}.png"), scene(n))
        (tmp_path / "labels" / folder / f"{n}.txt").write_text("0 0.5 0.5 0.3 0.3")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [disc]\n")
    return tmp_path


def check(root: Path) -> list[tuple[str, Finding]]:
    splits: tuple[Split, ...] = (TRAIN, VAL)  # type: ignore[assignment]
    indices = {split: DataSource(root).find_errors(split) for split in splits}
    found = check_splits(indices, (640, 640), 600)
    return [(split, finding) for split in splits for finding in found[split]]


def test_a_sound_set_gives_nothing(root: Path) -> None:
    assert check(root) == []


def test_copies_and_look_alikes_within_and_across_splits(root: Path) -> None:
    images, labels = root / "images", root / "labels"
    shutil.copy(images / "train/0.png", images / "train/90.png")
    shutil.copy(images / "train/1.png", images / "val/91.png")
    cv2.imwrite(str(images / "train/92.jpg"), encoded(scene(2), 70))
    cv2.imwrite(str(images / "val/93.jpg"), encoded(scene(3), 70))
    for name in ("train/90", "val/91", "train/92", "val/93"):
        (labels / f"{name}.txt").write_text("")
    found = [(split, f) for split, f in check(root) if f.kind != "no labels"]
    assert [(split, f.kind, Path(f.image).name, Path(f.beside).name) for split, f in found] == [
        (TRAIN, "same image twice", "90.png", "0.png"),
        (TRAIN, "near-duplicate images", "92.jpg", "2.png"),
        (VAL, "same image in train and val", "91.png", "1.png"),
        (VAL, "near-duplicate in train and val", "93.jpg", "3.png"),
    ]
    assert {finding.severity for _, finding in found} == {"warning"}
    assert all(finding.beside in finding.what for _, finding in found)
    assert "val does not measure what is new" in found[2][1].what


def test_one_file_in_both_splits(root: Path) -> None:
    (root / "data.yaml").write_text("train: images/train\nval: images/train\nnames: [disc]\n")
    found = check(root)
    assert [split for split, _ in found] == [VAL] * 6
    assert found[0][1].what.startswith("is the same file, which is in train")


def test_broken_images_are_no_copies_of_each_other(root: Path) -> None:
    for name in ("train/0", "train/1"):
        path = root / f"images/{name}.png"
        path.write_bytes(path.read_bytes()[:500])
    assert [finding.kind for _, finding in check(root)] == ["truncated image"] * 2
