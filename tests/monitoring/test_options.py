from __future__ import annotations

import pytest

from yolo_lightning.errors import InputError
from yolo_lightning.monitoring.options import DashboardConfig


@pytest.mark.parametrize(
    ("name", "value", "least"), [("pictures", -1, 0), ("pictures_every", 0, 1), ("feature_maps_every", -1, 0)]
)
def test_a_number_that_makes_no_sense_is_refused(name: str, value: int, least: int) -> None:
    with pytest.raises(InputError, match=f"dashboard.{name} is {value}; give {least} or more"):
        DashboardConfig(**{name: value})
