from pathlib import Path

import pytest
import torch
from torch import Tensor

from yolo_lightning.errors import InputError
from yolo_lightning.evaluation.detect import non_max_suppression
from yolo_lightning.export import formats
from yolo_lightning.export.formats import ExportOptions, ExportSource, Format, find_format
from yolo_lightning.export.suppression import suppress


def crowd(boxes: int, classes: int) -> tuple[Tensor, Tensor]:
    """Random boxes (K, 4) xyxy that overlap and leave an image of 100 px, and their scores (K, C)."""
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(boxes, 2, generator=generator) * 100 - 10
    size = torch.rand(boxes, 2, generator=generator) * 60
    return torch.cat((corner, corner + size), dim=1), torch.rand(boxes, classes, generator=generator)


@pytest.mark.parametrize(("threshold", "most"), [(0.25, 400), (0.25, 7), (1.0, 5)])
def test_suppression_equals_that_of_the_evaluation(threshold: float, most: int) -> None:
    boxes, scores = crowd(400, 3)
    wanted, counts = non_max_suppression(
        boxes[None], scores[None], threshold, 0.45, max_detections=most, multi_label=False
    )
    torch.testing.assert_close(suppress(boxes, scores, threshold, 0.45, most), wanted[0])
    assert int(counts[0]) == {400: 307, 7: 7, 5: 0}[most]


def options(**values: bool) -> ExportOptions:
    return ExportOptions((64, 96), **values)


def test_a_format_or_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="--format onxx is unknown"):
        find_format("onxx", options())


def test_a_missing_library_is_named_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "nncf" else name)
    with pytest.raises(
        InputError, match=r"nncf is not installed; run pip install 'yolo-lightning\[openvino\]'"
    ):
        find_format("openvino", options())
    assert find_format("onnx", options()).extra == "onnx"


def test_a_failed_export_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(source: ExportSource, path: Path, options: ExportOptions) -> None:
        path.write_text("half a model")
        raise InputError("no")

    monkeypatch.setattr(formats, "import_module", lambda *_: type("Module", (), {"write": write}))
    (tmp_path / "m.x").write_text("old")
    source: ExportSource = None  # type: ignore[assignment]  # the writer does not look at it
    with pytest.raises(InputError, match="no"):
        Format("x", ".x", None, (), frozenset()).write(source, tmp_path / "m.x", options())
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("m.x", "old")]
