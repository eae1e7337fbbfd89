from __future__ import annotations

import pytest

from yolo_lightning.data.augment import AugmentationConfig
from yolo_lightning.errors import InputError


@pytest.mark.parametrize(
    ("key", "value", "bounds"),
    [
        ("mosaic", 1.5, "between 0.0 and 1.0"),
        ("hsv_h", -0.1, "between 0.0 and 1.0"),
        ("scale", 1.0, "between 0.0 and 0.99"),
        ("degrees", 181.0, "between 0.0 and 180.0"),
        ("perspective", 0.01, "between 0.0 and 0.001"),
        ("close_mosaic", -1, "at least 0"),
        ("mixup", float("nan"), "between 0.0 and 1.0"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(key: str, value: float, bounds: str) -> None:
    with pytest.raises(InputError, match=rf"{key} is {value}.*{bounds}"):
        AugmentationConfig(**{key: value})  # type: ignore[arg-type]


def test_the_ends_of_the_ranges_are_allowed() -> None:
    ends = AugmentationConfig(
        mosaic=0.0, mixup=1.0, degrees=180.0, scale=0.99, perspective=0.001, close_mosaic=300
    )
    assert (ends.mosaic, ends.mixup, ends.degrees) == (0.0, 1.0, 180.0)


@pytest.mark.parametrize("key", ["degrees", "shear", "perspective"])
def test_only_zoom_and_shift_keep_the_axes(key: str) -> None:
    assert AugmentationConfig().axis_aligned
    config = AugmentationConfig(**{key: 0.001})  # type: ignore[arg-type]
    assert not config.axis_aligned
