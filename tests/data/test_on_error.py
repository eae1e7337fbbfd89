"""Wrong images and labels: all in one report with ``raise``, left out with ``skip``."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.faulty_data import COCO_FAULTS, YOLO_FAULTS, plant_in_coco, plant_in_yolo
from yolo_lightning.data.module import DetectionDataModule
from yolo_lightning.errors import InputError

PLANT: dict[str, tuple[Callable[..., dict[str, str]], int]] = {
    "coco": (plant_in_coco, len(COCO_FAULTS)),
    "yolo": (plant_in_yolo, len(YOLO_FAULTS)),
}


def module(root: Path, on_error: str = "raise", max_skipped: float = 0.1) -> DetectionDataModule:
    return DetectionDataModule(str(root), 64, 4, 0, "none", on_error=on_error, max_skipped=max_skipped)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", PLANT)
def test_all_errors_are_one_report(form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plant, count = PLANT[form]
    expected = plant(tmp_path, 10 * count)
    with caplog.at_level(logging.INFO), pytest.raises(InputError) as error:
        module(tmp_path).build_indices("fit")
    report = "\n".join(caplog.messages)
    for image, kind in expected.items():
        stem, kinds = Path(image).stem, str(error.value)
        n = stem.removeprefix("train").removeprefix("val")
        assert kind in kinds and any(name in report for name in (stem, f"annotation {n} ", f"image {n} "))
    assert f"{2 * count} errors" in str(error.value) and f"in {2 * count} images" in str(error.value)
    assert "yolo-lightning check" in str(error.value) and "--data.on_error skip" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", PLANT)
def test_skip_leaves_exactly_these_images_out(form: str, tmp_path: Path) -> None:
    plant, count = PLANT[form]
    expected = plant(tmp_path, 10 * count)
    data = module(tmp_path, "skip")
    data.build_indices("fit")
    assert {finding.image: finding.kind for finding in data.left_out} == expected
    for split in ("train", "val"):
        index = data.index(split)  # type: ignore[arg-type]
        assert len(index) == 9 * count and not set(index.paths()) & expected.keys()
        np.testing.assert_array_equal(np.diff(index.offsets), 1)
    data.setup("fit")
    assert sum(len(batch.index) for batch in data.val_dataloader()) == 9 * count


def test_skip_stops_above_a_share(tmp_path: Path) -> None:
    plant_in_coco(tmp_path, 10 * len(COCO_FAULTS))
    with pytest.raises(InputError, match=r"split would be left out, more than data\.max_skipped 0\.09"):
        module(tmp_path, "skip", 0.09).build_indices("fit")
    for path in (tmp_path / "images/train").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"no image of the train split is without errors, "):
        module(tmp_path, "skip", 1.0).build_indices("fit")
    with pytest.raises(InputError, match=r"max_skipped 1\.5 is no share"):
        module(tmp_path, "skip", 1.5)
    with pytest.raises(InputError, match="on_error 'ignore' is unknown"):
        module(tmp_path, "ignore")


def test_classes_that_count_from_one_are_one_error(tmp_path: Path) -> None:
    plant_in_yolo(tmp_path, 8, faults={})
    for n, path in enumerate(sorted((tmp_path / "labels").rglob("*.txt"))):
        path.write_text(f"{n % 2 + 1} 0.5 0.5 0.2 0.2\n")
    for on_error in ("raise", "skip"):
        with pytest.raises(InputError, match="the classes of the labels seem to count from 1: 2 is used in"):
            module(tmp_path, on_error).build_indices("fit")


def test_boxes_of_another_form_stop_also_with_skip(tmp_path: Path) -> None:
    """All labels of the split are wrong, so that there is nothing to leave out."""
    plant_in_coco(tmp_path, 8, faults={})
    for path in (tmp_path / "annotations").glob("*.json"):
        document = json.loads(path.read_text())
        for annotation in document["annotations"]:
            annotation["bbox"] = [0.1, 0.2, 0.3, 0.4]
        path.write_text(json.dumps(document))
    for on_error in ("raise", "skip"):
        with pytest.raises(
            InputError, match=r"json: all 8 boxes lie within 0\.\.1, but this format has px; [^;]*$"
        ):
            module(tmp_path, on_error, 1.0).build_indices("fit")


def test_labels_of_an_image_entry_without_a_file_name_are_left_out_with_it(tmp_path: Path) -> None:
    plant_in_coco(tmp_path, 20, faults={})
    path = tmp_path / "annotations/instances_train.json"
    document = json.loads(path.read_text())
    del document["images"][3]["file_name"]
    path.write_text(json.dumps(document))
    data = module(tmp_path, "skip")
    assert len(data.index("train")) == 19
    assert [finding.what[:8] for finding in data.left_out] == ["image 3 "]
