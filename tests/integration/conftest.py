"""A Slurm for the tests of this folder, and runs on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.debian import PackagesMissing
from tests.support.slurm_cluster import SlurmCluster, fetch_slurm
from yolo_lightning.data.synthetic import make_dataset

SCRIPT = Path(__file__).parents[2] / "scripts" / "submit_slurm.sh"
EPOCHS, BATCHES = 16, 6
"""Of a run, and of an epoch of it on each rank."""

Submit = Callable[..., int]
"""``submit(run_name, *options of sbatch, **environment)`` gives the number of a job on two nodes."""


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A controller and two idle nodes. On a machine of CI it is an error if there can be none."""
    try:
        programs = fetch_slurm()
    except PackagesMissing as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    slurm = SlurmCluster(programs, tmp_path_factory.mktemp("slurm") / "cluster")
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()


@pytest.fixture
def idle_cluster(cluster: SlurmCluster) -> Iterator[SlurmCluster]:
    """The cluster, with nothing left of the test before."""
    yield cluster
    cluster.clear()


@pytest.fixture(scope="session")
def submit(cluster: SlurmCluster) -> Submit:
    """Submits the shipped script: a run of YOLOv5n at 64 px, one process on each of two nodes."""
    images = make_dataset(cluster.folder / "shapes", train_images=4 * BATCHES, val_images=3, image_size=64)
    of_sbatch = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", "--cpus-per-task=1")
    of_fit = (
        "--data.root", str(images), "--data.image_size=64", "--data.batch_size=2", "--data.num_workers=0",
        "--model.compile=false", "--model.channels_last=true", "--trainer.precision=32-true",
        # Two batches a step: a stop may fall between them.
        "--model.optimizer.nominal_batch_size=8", "--model.optimizer.warmup_epochs=0",
        f"--trainer.max_epochs={EPOCHS}", "--checkpoint_minutes=0",
    )  # fmt: skip

    def submit_(run_name: str, *options: str, **environment: str) -> int:
        own = {"RUN_NAME": run_name, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
        return cluster.submit(*of_sbatch, *options, SCRIPT, *of_fit, environment={**own, **environment})

    return submit_


@pytest.fixture(scope="session")
def undisturbed_job(cluster: SlurmCluster, submit: Submit) -> int:
    """Number of a job that nothing has happened to."""
    job = submit("undisturbed")
    assert cluster.finish(job, 200) == "COMPLETED", cluster.tell()
    return job


@pytest.fixture(scope="session")
def undisturbed(cluster: SlurmCluster, undisturbed_job: int) -> Path:
    """Directory of its run."""
    return cluster.folder / "runs" / "undisturbed" / "version_0"
