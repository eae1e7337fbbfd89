import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.support.run_comparison import assert_equal_runs, contents
from tests.support.small_network import write_small_yaml
from tests.support.stopped_runs import in_an_empty_folder, options, signal_at, stopped
from tests.support.tiny_data import annotation, image, write_coco
from yolo_lightning import DetectionDataModule, YOLOv5
from yolo_lightning.__main__ import main
from yolo_lightning.errors import InputError
from yolo_lightning.model.anchors import best_possible_recall

__all__ = ["in_an_empty_folder"]
ANCHORS = "model.9.anchors"
WHOLE, PARTS = Path("runs/whole/version_0"), Path("runs/parts/version_0")


def write_wires(root: Path) -> Path:
    """Boxes of 50 x 1 px and the like, which no classic anchor matches; one reaches out of its image."""
    boxes = [[2, 4 * k, 40 + k, 1 + k / 10] for k in range(9)]
    for split, count in (("train", 10), ("val", 2)):
        images = [image(i, f"{i}.png") for i in range(count)]
        labels = [annotation(9 * i + k, i, 1, box) for i in range(count) for k, box in enumerate(boxes)]
        labels[0]["bbox"] = [30, 0, 100, 2]
        document = {"images": images, "annotations": labels, "categories": [{"id": 1, "name": "wire"}]}
        write_coco(root, document, split)
    return root


def fit(data: Path, *more: str) -> None:
    main(["fit", *options(data, *more)])


def config(run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((run / "config.yaml").read_text())["model"]
    return loaded


def anchors_px(run: Path) -> list[list[float]]:
    anchors = contents(run)["state_dict"][f"network.{ANCHORS}"] * torch.tensor([8.0, 16, 32])[:, None, None]
    return [row for level in anchors.tolist() for row in level]


def test_label_sizes_are_those_in_the_network_s_input(tmp_path: Path) -> None:
    data = DetectionDataModule(root=str(write_wires(tmp_path)), image_size=64)
    sizes = data.label_sizes_px()
    assert sizes.shape == (90, 2) and sizes.dtype == np.float32
    scale = 64 / 60  # images of 60 x 40 px
    assert sizes[:2].tolist() == [
        pytest.approx([30 * scale, 2 * scale]),
        pytest.approx([41 * scale, 1.1 * scale]),
    ]


def test_anchors_are_found_written_trained_with_and_kept_by_a_resume(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    data = write_wires(tmp_path / "data")
    architecture = f"--model.architecture={write_small_yaml(tmp_path, True)}"
    fit(data, architecture, "--run_name=whole")
    assert "best possible recall 1.0000 instead of 0.0000" in caplog.text
    found = [pair for row in config(WHOLE)["anchors"] for pair in zip(row[::2], row[1::2], strict=True)]
    assert np.allclose(found, anchors_px(WHOLE), atol=0.005)
    sizes = DetectionDataModule(root=str(data), image_size=64).label_sizes_px()
    assert best_possible_recall(sizes, np.array(found, np.float32), 4.0) == 1

    stopped(*options(data, architecture, "--run_name=parts", *signal_at("SIGTERM", 1, 2)))
    caplog.clear()
    main(["fit", "--ckpt_path", str(PARTS / "checkpoints/last.ckpt"), "--trust_config"])
    assert "anchors:" not in caplog.text
    assert_equal_runs(WHOLE, PARTS)
    assert config(PARTS)["anchors"] == config(WHOLE)["anchors"]

    # The same options again train with the same anchors, without a search.
    main(["fit", "--config", str(WHOLE / "config.yaml"), "--run_name=again", "--trainer.max_epochs=1"])
    assert "anchors:" not in caplog.text


@pytest.mark.parametrize(
    ("more", "is_changed"),
    [((), True), (("--model.auto_anchor=false",), False), (("weights",), False),
     (("weights", "--model.auto_anchor=true"), True), (("weights", "yaml"), True)],
)  # fmt: skip
def test_auto_looks_for_anchors_from_scratch_and_with_a_yaml(
    tmp_path: Path, more: Sequence[str], is_changed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network of one anchor a level, which stands for an official model with its weights."""
    monkeypatch.setattr("yolo_lightning.training.module.is_name", lambda _: "yaml" not in more)
    path = Path(write_small_yaml(tmp_path, False))
    path.write_text(path.read_text() + "anchors: [[10, 13], [30, 61], [116, 90]]\n")
    module = YOLOv5(str(path), num_classes=1, compile=False)
    module.configure_model()
    torch.save(module.network.state_dict(), tmp_path / "weights.pt")
    words = {"weights": [f"--model.weights={tmp_path / 'weights.pt'}"], "yaml": []}
    given = [option for one in more for option in words.get(one, [one])]
    fit(write_wires(tmp_path / "data"), f"--model.architecture={path}", "--trainer.max_epochs=1",
        "--run_name=whole", *given)  # fmt: skip
    assert (anchors_px(WHOLE) != [[10, 13], [30, 61], [116, 90]]) == is_changed
    assert (config(WHOLE)["anchors"] is not None) == is_changed


def test_a_run_that_resumes_has_the_anchors_of_its_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a search, even if the run began with weights, which its resumption does not read."""
    caplog.set_level(logging.INFO)
    data, last = write_wires(tmp_path / "data"), str(WHOLE / "checkpoints/last.ckpt")
    fit(data, f"--model.architecture={write_small_yaml(tmp_path, True)}", "--model.auto_anchor=false",
        "--run_name=whole", "--trainer.max_epochs=1")  # fmt: skip
    before = anchors_px(WHOLE)
    again = ["fit", f"--ckpt_path={last}", "--trust_config", "--trainer.max_epochs=2"]
    main([*again, "--model.auto_anchor=auto"])
    assert "anchors:" not in caplog.text
    assert anchors_px(WHOLE) == before and config(WHOLE)["anchors"] is None
    with pytest.raises(SystemExit):
        main([*again, "--trainer.max_epochs=3", f"--model.anchors={[[1, 2, 3, 4, 5, 6]] * 3}"])
    assert "not those of the run to resume" in capsys.readouterr().err


def test_given_anchors_replace_those_of_the_model_in_head_and_loss() -> None:
    rows = [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [7.0] * 6, [8.0, 9.0, 10.0, 11.0, 12.0, 13.0]]
    module = YOLOv5(num_classes=2, compile=False, anchors=rows)
    module.configure_model()
    expected = torch.tensor(rows).view(3, 3, 2) / torch.tensor([8.0, 16, 32])[:, None, None]
    assert torch.equal(module.network.state_dict()["model.24.anchors"], expected)
    assert torch.equal(module.criterion.anchors, expected)


@pytest.mark.parametrize(
    ("architecture", "anchors", "message"),
    [("yolov5n", [[1, 2], [3, 4, 5]], "one list a level"), ("yolov5n", [[1, 0]], "above 0 px"),
     ("yolov5n", [[1, 2]] * 3, "3 lists of 3 widths"), ("yolov5nu", [[1, 2]], "has no anchors")],
)  # fmt: skip
def test_anchors_that_do_not_fit_are_refused(
    architecture: str, anchors: list[list[float]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        YOLOv5(architecture, anchors=anchors, compile=False).configure_model()
