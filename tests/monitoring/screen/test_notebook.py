from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

CODE = """
from yolo_lightning.monitoring.screen import display, progress
display.INTERVAL_S = 0.0
display = progress.open_display()
for epoch in range(3):
    bar = display.open(f"epoch {epoch + 1}/3", 50, 0.0)
    for bar.done in range(1, 51):
        display.draw(float(bar.done))
    {last}
    print(f"row {epoch + 1}")
"""


def outputs(code: str, folder: Path) -> list[Any]:
    """What is below a cell after it was run by a kernel."""
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    asyncio.set_event_loop_policy(None)
    nbclient.NotebookClient(
        notebook, timeout=120, startup_timeout=120, resources={"metadata": {"path": str(folder)}}
    ).execute()
    return list(notebook.cells[0].outputs)


def test_a_cell_has_one_bar_and_the_lines_below_it(tmp_path: Path) -> None:
    below = outputs(CODE.replace("{last}", "if epoch < 2: display.close(bar)"), tmp_path)
    bar, *rows = below
    assert bar.output_type == "display_data"
    assert bar.data["text/plain"].startswith("epoch 3/3 100% ━━━")
    assert {row.output_type for row in rows} == {"stream"}
    assert "".join(row.text for row in rows) == "row 1\nrow 2\nrow 3\n"
