from __future__ import annotations

from typing import Any

import pytest

from yolo_lightning import YOLOv5
from yolo_lightning.monitoring.screen.progress import FirstBatch


def test_the_first_batch_alone_is_announced_and_timed() -> None:
    batch = FirstBatch("compiling all")
    assert batch.begin(100.0) == "compiling all"
    assert batch.end(141.32) == "the first batch took 41.3 s, compilation included"
    assert batch.begin(142.0) is None and batch.end(143.0) is None


def test_what_does_not_compile_is_not_announced() -> None:
    batch = FirstBatch(None)
    assert batch.begin(100.0) is None and batch.end(141.3) is None


@pytest.mark.parametrize(
    ("option", "expected"), [(False, None), ("augmentation", "compiling the augmentation")]
)
def test_a_network_says_what_it_compiles(
    option: Any, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yolo_lightning.training.compilation.compiler_obstacle", lambda device_type: None)
    network = YOLOv5("yolov5n", compile=option)
    network.configure_model()
    assert (network.compilation.announcement or "None").startswith(expected or "None")
