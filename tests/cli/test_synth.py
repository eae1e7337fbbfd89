from __future__ import annotations

import json
from pathlib import Path

import pytest

from yolo_lightning.cli.synth import synth
from yolo_lightning.errors import InputError


def test_says_what_it_made_and_how_to_train_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "shapes"
    synth(str(output), train_images=5, val_images=2, image_size=64)
    said = capsys.readouterr().out
    boxes = {
        split: len(
            json.loads((output / "annotations" / f"instances_{split}.json").read_text())["annotations"]
        )
        for split in ("train", "val")
    }
    assert f"5 pictures to train on ({boxes['train']} boxes)" in said
    assert f"2 to validate on ({boxes['val']} boxes)" in said
    assert "circle, square, triangle, star, ring" in said
    assert f"yolo-lightning fit --data.root {output}" in said
    synth(str(output), train_images=5, val_images=2, image_size=64)
    assert capsys.readouterr().out == said


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        synth(str(tmp_path), train_images=1, val_images=1, image_size=64)
