from pathlib import Path

import pytest

from yolo_lightning.data.synthetic import make_dataset


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small COCO data set: 10 training and 5 validation images of 64 px, five classes."""
    return make_dataset(
        tmp_path_factory.mktemp("data") / "shapes", train_images=10, val_images=5, image_size=64
    )
