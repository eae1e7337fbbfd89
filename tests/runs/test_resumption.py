from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from yolo_lightning.runs.resumption import random_state, set_random_state


def draws() -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        torch.rand(()).item(),
    ]


def test_random_numbers_go_on_after_a_file(tmp_path: Path) -> None:
    before = random_state()
    try:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        draws()  # an odd number of normal draws leaves one over in Python's and NumPy's generator
        torch.save(random_state(), tmp_path / "state.pt")
        expected = draws()
        assert draws() != expected
        set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
        assert draws() == expected
    finally:
        set_random_state(before)
