import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from tensorboard.summary.writer import event_file_writer

from yolo_lightning.data.synthetic import make_dataset

# A machine that is busy may take any time for an example, and for making the first ones. Of what there was
# before, such as the examples without chance that Hypothesis takes on a machine of CI, all else stays.
settings.register_profile(
    "unhurried", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("unhurried")


if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores
    os.environ["OMP_NUM_THREADS"] = "1"  # for processes that tests start
    torch.set_num_threads(1)


# TensorBoard reads the files of one second in the order of their names, which end in this number as text.
event_file_writer._global_uid = event_file_writer.AtomicCounter(1_000_000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the whole runs, which take longest."""
    items.sort(key=lambda item: "integration" not in item.path.parts)


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
