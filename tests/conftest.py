import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from yolo_lightning.data.synthetic import make_dataset


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small COCO data set: 10 training and 5 validation images of 64 px, five classes."""
    return make_dataset(
        tmp_path_factory.mktemp("data") / "shapes", train_images=10, val_images=5, image_size=64
    )


@pytest.fixture(scope="session", autouse=True)
def caches_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing that the user has measured or cached decides a test, and no test leaves anything there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path_factory.mktemp("caches")))
        yield
