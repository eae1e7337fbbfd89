from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.faulty_data import COCO_FAULTS, YOLO_FAULTS, plant_in_coco, plant_in_yolo
from tests.support.html_page import HtmlPage
from tests.support.tiny_data import SHARED, write_image
from yolo_lightning.cli.check import run_check
from yolo_lightning.errors import InputError


def check(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        run_check(["--data.root", *map(str, arguments)])
    return int(exit_.value.code or 0)


def as_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    check(*arguments, "--json")
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


@pytest.mark.parametrize("form", ["coco", "yolo"])
def test_every_fault_is_found_and_none_is_invented(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant, faults = (plant_in_coco, COCO_FAULTS) if form == "coco" else (plant_in_yolo, YOLO_FAULTS)
    expected = plant(tmp_path, 3 * len(faults))  # type: ignore[operator]
    found = as_json(capsys, tmp_path)
    assert {finding["image"]: finding["kind"] for finding in found["findings"]} == expected
    assert found["counts"] == {"error": 2 * len(faults), "warning": 0, "note": 0}
    assert found["splits"]["val"] == {"images": 2 * len(faults), "labels": 2 * len(faults)}
    assert check(tmp_path) == 1
    out = capsys.readouterr().out
    assert f"{2 * len(faults)} errors, 0 warnings, 0 notes" in out and "train (" in out


def test_status_0_and_nothing_found_in_a_sound_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_in_yolo(tmp_path, 4, faults={})
    assert check(tmp_path) == 0
    assert "0 errors, 0 warnings, 0 notes" in capsys.readouterr().out


@pytest.mark.skipif(not (SHARED / "bccd").is_dir(), reason="the shared data sets are not here")
def test_public_sets_have_no_errors(capsys: pytest.CaptureFixture[str]) -> None:
    bccd = as_json(capsys, SHARED / "bccd")
    assert bccd["kinds"] == {"near-duplicate in train and val": 1}  # one field of view, photographed twice
    assert {Path(bccd["findings"][0][key]).name for key in ("image", "beside")} == {
        "BloodImage_00037.jpg", "BloodImage_00038.jpg"}  # fmt: skip
    assert as_json(capsys, SHARED / "coco8")["kinds"] == {"unused class": 2}


def test_a_split_that_cannot_be_read_is_an_error_beside_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_in_coco(tmp_path, 4, faults={})
    (tmp_path / "annotations/instances_train.json").write_text('{"images": [')
    (tmp_path / "images/val/val1.png").write_bytes(b"")
    found = as_json(capsys, tmp_path)
    assert found["kinds"] == {"unreadable split": 1, "empty image": 1} and list(found["splits"]) == ["val"]
    (tmp_path / "annotations/instances_train.json").unlink()
    assert "missing split" in as_json(capsys, tmp_path)["kinds"]


def test_no_name_of_a_broken_split_is_a_command_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_in_yolo(tmp_path, 4, faults={})
    (tmp_path / "data.yaml").write_text('train: images/train\nval: "\\e[31mval"\nnames: [a, b]\n')
    assert check(tmp_path) == 1
    out = capsys.readouterr().out
    assert "?[31mval, which does not exist" in out and "\x1b" not in out


def test_other_classes_in_val_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant_in_coco(tmp_path, 3, faults={})
    path = tmp_path / "annotations/instances_val.json"
    path.write_text(path.read_text().replace('"disc"', '"ring"'))
    assert as_json(capsys, tmp_path)["kinds"] == {"other classes": 1}


def test_the_page_has_pictures_and_escapes_names(tmp_path: Path) -> None:
    root = tmp_path / "<img src=x onerror=alert(1)>"
    plant_in_yolo(root, 9, faults={})
    write_image(root / "images/train/copy.png", 48, 64, seed=3)
    (root / "labels/train/copy.txt").write_text("1 0.5 0.5 0.2 0.2")
    (root / "labels/train/train0.txt").write_text("<script> 0.5 0.5 0.1 0.1")
    assert check(root, "--html", tmp_path / "page.html", "--json", tmp_path / "all.json") == 1
    html = (tmp_path / "page.html").read_text()
    assert "<script" not in html and "<img src=x" not in html and "&lt;script&gt;" in html
    assert html.count("data:image/jpeg;base64,") == 3  # the wrong one, the copy and its original
    HtmlPage(html)
    assert len(json.loads((tmp_path / "all.json").read_text())["findings"]) == 2


@pytest.mark.parametrize("form", ["coco", "yolo"])
def test_a_fixed_copy_has_no_errors_and_the_original_is_as_before(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, fixed = tmp_path / "set", tmp_path / "fixed"
    if form == "coco":
        plant_in_coco(root, 3 * len(COCO_FAULTS))
        path = root / "annotations/instances_train.json"
        document = json.loads(path.read_text())
        labels = document["annotations"]
        labels[1]["bbox"], labels[2]["bbox"] = [50, 30, 30, 30], [70, 5, 9, 9]  # reaches out; lies outside
        document["annotations"] += [labels[4], {**labels[5], "image_id": 999}]  # repeated; of no image
        path.write_text(json.dumps(document))
    else:
        plant_in_yolo(root, 3 * len(YOLO_FAULTS))
        for n, text in enumerate(
            ("1 0.9 0.5 0.4 0.2", "0 1.05 0.5 0.02 0.2", "0 .5 .5 .2 .2\n0 .5 .5 .2 .2")
        ):
            (root / f"labels/train/train{3 * n + 1}.txt").write_text(text)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert check(root, "--fix", fixed) == 1
    capsys.readouterr()
    assert before == {p: p.read_bytes() for p in root.rglob("*") if p.is_file() and "cache" not in str(p)}
    found = as_json(capsys, fixed)
    count = 3 * len(COCO_FAULTS if form == "coco" else YOLO_FAULTS)
    assert found["counts"]["error"] == found["counts"]["warning"] == 0
    assert found["splits"]["train"] == {"images": count * 2 // 3, "labels": count * 2 // 3 - 1}
    with pytest.raises(InputError, match="is not an empty folder; give a new one as --fix"):
        run_check(["--data.root", str(root), "--fix", str(fixed)])


def test_what_only_the_user_can_decide_is_not_fixed(tmp_path: Path) -> None:
    plant_in_yolo(tmp_path / "set", 4, faults={})
    for path in (tmp_path / "set/labels/train").iterdir():
        path.write_text("0 0.5 0.6 0.9 0.95")  # two corners
    with pytest.raises(InputError, match=r"seem to be two corners, .* --fix has written nothing"):
        run_check(["--data.root", str(tmp_path / "set"), "--fix", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_wrong_input_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the folder does not exist"):
        run_check(["--data.root", str(tmp_path / "none")])
    plant_in_yolo(tmp_path, 2, faults={})
    with pytest.raises(InputError, match=r"--seconds 0\.0 is no cost"):
        run_check(["--data.root", str(tmp_path), "--seconds", "0"])
    with pytest.raises(InputError, match=r"--html \S+: cannot be written"):
        run_check(["--data.root", str(tmp_path), "--html", str(tmp_path / "images")])
    with pytest.raises(SystemExit) as exit_:
        run_check(["--data.rot", str(tmp_path)])
    assert exit_.value.code == 2
