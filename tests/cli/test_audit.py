from __future__ import annotations

import csv
import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.html_page import HtmlPage
from tests.support.tiny_data import write_yolo
from yolo_lightning.cli.audit import judge, most_accurate, run_audit
from yolo_lightning.data.annotations.index import DatasetIndex
from yolo_lightning.data.annotations.source import DataSource
from yolo_lightning.errors import InputError
from yolo_lightning.evaluation.suspicions import Suspicions
from yolo_lightning.monitoring.report.audit import audit_page
from yolo_lightning.runs.record import as_csv

NASTY = "=<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Path:
    """The results of a real audit, which is far too short to find anything, and what it prints."""
    output = tmp_path_factory.mktemp("audit") / "results"
    with redirect_stdout(io.StringIO()) as printed:
        run_audit([
            "--folds", "2", "--epochs", "1", "--output", str(output), "--json", "--data.root", str(shapes),
            "--data.image_size", "64", "--data.batch_size", "4", "--data.num_workers", "0",
            "--model.compile", "false", "--trainer.accelerator", "cpu",
        ])  # fmt: skip
    (output / "printed").write_text(printed.getvalue())
    return output


def test_every_image_is_predicted_by_a_network_that_has_not_seen_it(audited: Path, shapes: Path) -> None:
    summary = json.loads((audited / "audit.json").read_text())
    assert summary["images"] == 15 and summary["folds"] == 2
    assert summary["map"]["low"] <= summary["map"]["value"] <= summary["map"]["high"]
    assert {path.name for path in audited.iterdir()} == {
        "audit.csv", "audit.html", "audit.json", "config.yaml", "printed",
    }  # fmt: skip
    assert not list(shapes.rglob("*.cache"))  # nothing is left beside the data
    assert json.loads((audited / "printed").read_text()) == summary  # and nothing else
    HtmlPage((audited / "audit.html").read_text())


def test_a_checkpoint_is_not_ignored() -> None:
    with pytest.raises(InputError, match="trains each fold anew and resumes nothing"):
        run_audit(["--ckpt_path", "last"])


def test_an_image_that_the_check_has_not_decoded_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    labels: dict[str, str | None] = {f"image{n}": "0 .5 .5 .5 .5\n" for n in range(4)}
    for split in ("train", "val"):
        write_yolo(tmp_path / "data", labels, ("cat",), split)
    monkeypatch.setattr(
        "yolo_lightning.data.indices.check_splits", lambda indices, *_, **__: dict.fromkeys(indices, ())
    )
    broken = tmp_path / "data" / "images" / "train" / "image3.png"
    content = broken.read_bytes()
    broken.write_bytes(content[:60] + bytes(len(content) - 100) + content[-40:])
    monkeypatch.setattr(
        "yolo_lightning.cli.audit.find_suspicions",
        lambda *_: Suspicions(*map(np.array, ([1], [0.9], [-1], [0]))),
    )
    run_audit([
        "--folds", "2", "--epochs", "1", "--output", str(tmp_path / "out"), "--data.root",
        str(tmp_path / "data"), "--data.image_size", "64", "--data.batch_size", "4",
        "--data.num_workers", "0", "--model.compile", "false", "--trainer.accelerator", "cpu",
    ])  # fmt: skip
    assert json.loads((tmp_path / "out" / "audit.json").read_text())["images"] == 7
    assert capsys.readouterr().out.splitlines()[-1].startswith("Look at audit.html")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--folds", "1"], "--folds is 1; give a number from 2"),
        (["--epochs", "x"], "--epochs is x; give a number from 1"),
        (["--folds", "16", "--data.root", "SHAPES"], "--folds is 16, but there are 15 images; give fewer"),
        ([], "data.root is not set"),
        (["--output", "/dev/null/results"], "--output /dev/null/results: cannot be made"),
    ],
)
def test_wrong_options(
    options: list[str], said: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        run_audit([str(shapes) if option == "SHAPES" else option for option in options])
    assert not list(tmp_path.glob("runs/audit/*"))


def findings(tmp_path: Path) -> tuple[DatasetIndex, list[dict[str, Any]]]:
    """An image with a swapped label, beside many on which network and labels agree."""
    labels: dict[str, str | None] = {f"image{n}": "0 .5 .5 .5 .5\n" for n in range(30)}
    write_yolo(tmp_path, labels | {"=bad": "1 .5 .5 .5 .5\n"}, names=(NASTY, "dog"))
    index = DataSource(tmp_path).read("train")
    row = np.array([[15, 10, 45, 30, 0.9, 0]], np.float32)
    return index, judge(index, [row] * len(index))


def test_a_record_says_what_is_wrong_and_where(tmp_path: Path) -> None:
    index, records = findings(tmp_path)
    (record,) = records
    assert record.pop("score") == pytest.approx(1, abs=0.05)
    assert record == {
        "rank": 1, "kind": "wrong class", "image": index.paths().index(f"{tmp_path}/images/train/=bad.png"),
        "file": "images/train/=bad.png", "label": "dog", "label_box": [15, 10, 45, 30], "found": NASTY,
        "found_box": [15, 10, 45, 30], "confidence": 0.9,
    }  # fmt: skip


def test_the_labels_are_judged_by_the_most_accurate_detections(tmp_path: Path) -> None:
    write_yolo(tmp_path, {f"image{n}": "0 .5 .5 .5 .5\n" for n in range(3)}, names=("cat",))
    index = DataSource(tmp_path).read("train")
    right, beside = (np.array([[x, 10, x + 30, 30, 0.9, 0]], np.float32) for x in (15, 25))
    found = [[beside] * 3, [right] * 3, [beside] * 3]
    assert most_accurate(index, found) is found[1]


def test_names_are_no_markup_and_no_formulas(tmp_path: Path) -> None:
    index, records = findings(tmp_path)
    page = HtmlPage(audit_page(index, records, "out-of-fold mAP"))
    assert f"labelled dog, found {NASTY} 0.90" in page.text
    assert not any("onerror" in attributes for _, attributes in page.elements)
    pictures = [attributes["src"] for name, attributes in page.elements if name == "img"]
    assert len(pictures) == 1 and str(pictures[0]).startswith("data:image/jpeg;base64,")
    (row,) = csv.DictReader(as_csv([*records[0]], records).splitlines())
    assert row["found"] == f"'{NASTY}" and row["label"] == "dog" and row["confidence"] == "0.9"
