"""The notebook runs from its first cell to its last, on smaller numbers than its own."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from yolo_lightning.runs.directory import read_metrics

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "quickstart.ipynb"
SMALL = {
    "epochs": 3,
    "train_images": 96,
    "val_images": 16,
    "image_size": 64,
    "batch_size": 16,
    "doctor_seconds": 4,
}
"""What the cell of numbers is replaced with."""


@pytest.fixture(scope="module")
def notebook() -> NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_kept_without_results(notebook: NotebookNode) -> None:
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.timeout(600)  # each of its cells may take 200 s
def test_it_runs_from_top_to_bottom(
    notebook: NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")  # or the doctor would compile for most of a minute
    numbers = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    (cell,) = numbers
    own: dict[str, object] = {}
    exec(cell.source, own)
    assert SMALL.keys() == own.keys() - {"__builtins__"}
    cell.source = "\n".join(f"{name} = {value}" for name, value in SMALL.items())
    resources = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, timeout=200, startup_timeout=200, resources=resources)
    client.execute()  # raises where a cell fails

    rows = read_metrics(tmp_path / "runs" / "notebook" / "metrics.csv")
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert all(row["train/box_loss"] > 0 and 0 <= row["val/map"] <= 1 for row in rows)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 5  # labels, curves, augmented images, predictions, feature maps
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "The bottleneck is" in printed
