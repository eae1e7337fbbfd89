"""Training jobs that are stopped on a real Slurm go on where they were, and end as if never stopped."""

import csv
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from tests.integration.conftest import BATCHES, EPOCHS, Submit
from tests.support.run_comparison import assert_equal_runs, contents
from tests.support.slurm_cluster import NODES, SlurmCluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(900)]

REQUEUES = 10


class Training:
    """A job that trains, and what its log and its run directory tell."""

    def __init__(self, cluster: SlurmCluster, submit: Submit, run_name: str, *options: str) -> None:
        self.cluster, self.starts = cluster, 1
        self.job = submit(run_name, *options)
        self.run = cluster.folder / "runs" / run_name / "version_0"
        cluster.begin(self.job)

    def log(self) -> str:
        """Of the newest start."""
        return self.cluster.log(self.job).rpartition(f": start {self.starts} on ")[2]

    def batches(self) -> int:
        """On each rank, before ``last.ckpt`` was written; 0 without one."""
        if not (self.run / "checkpoints" / "last.ckpt").exists():
            return 0
        progress = contents(self.run)["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        return int(progress["total"]["processed"])

    def resumed_at(self) -> int:
        """Batches behind which the newest start says that it goes on."""
        within = re.search(r"checkpoint \S+, in epoch (\d+) after batch (\d+)", self.log())
        if within:
            return (int(within[1]) - 1) * BATCHES + int(within[2])
        between = re.search(r"checkpoint \S+, after epoch (\d+)", self.log())
        return int(between[1]) * BATCHES if between else 0

    def until_training(self) -> None:
        """Wait until the ranks of this start are ready; the first batch is less than a second away."""
        self.cluster.until(lambda: "a step sums 2 batches" in self.log(), 120, "both ranks")

    def epochs(self) -> int:
        """Rows that the table of the newest start has."""
        return len(re.findall(rf"^ +\d+/{EPOCHS} ", self.log(), flags=re.M))

    def until_trained(self, epochs: int) -> None:
        """Wait until the table of the newest start has so many rows."""
        self.cluster.until(lambda: self.epochs() >= epochs, 120, "an epoch")

    def started_again(self) -> None:
        """Wait for the next start, which resumes at what the one before has saved."""
        self.starts += 1
        self.cluster.begin(self.job, self.starts)
        saved = self.batches()  # it takes seconds to come to training
        self.until_training()
        assert self.resumed_at() == saved

    def ends_like(self, undisturbed: Path) -> None:
        """The job completes, and its run is that of the other, bit for bit."""
        assert self.cluster.finish(self.job, 300) == "COMPLETED", self.cluster.tell()
        assert self.cluster.job(self.job)["Restarts"] == str(self.starts - 1)
        assert [version.name for version in self.run.parent.glob("version_*")] == ["version_0"]
        assert_equal_runs(self.run, undisturbed)


@pytest.mark.long
def test_ten_notices_at_random_moments(idle_cluster: SlurmCluster, submit: Submit, undisturbed: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")  # pytest shows it when the test fails
    moment = random.Random(seed)
    training = Training(idle_cluster, submit, "notices")
    with (undisturbed / "metrics.csv").open(newline="") as file:
        epoch_s = float(list(csv.DictReader(file))[-1]["wall_seconds"]) / EPOCHS
    stops: list[int] = []
    for notice in range(REQUEUES):
        if notice:
            training.started_again()
        else:
            training.until_training()
        before = training.batches()
        # So that epochs are left for the others, and some after the last, or it would come too late. How long
        # an epoch takes is not the same at all times, so they are counted, too.
        share = (EPOCHS - before / BATCHES) / (REQUEUES + 2 - notice)
        end = time.monotonic() + moment.uniform(0.3, 0.8 + share * epoch_s)  # the first batch takes its time
        while time.monotonic() < end and training.epochs() < share:
            time.sleep(0.02)
        idle_cluster.run("scancel", "--signal=USR1", str(training.job))
        idle_cluster.until(
            lambda: idle_cluster.state(training.job) in ("PENDING", "COMPLETED"), 120, "the end of a start"
        )
        assert idle_cluster.state(training.job) == "PENDING", idle_cluster.tell()
        assert "is queued again" in training.log()
        stops.append(training.batches())
        assert stops[-1] >= before
    assert len(set(stops)) > REQUEUES // 2  # else it was not training that was stopped
    assert any(stop % BATCHES for stop in stops)  # within an epoch
    training.started_again()
    training.ends_like(undisturbed)


def test_a_job_that_is_stopped_in_every_way(
    idle_cluster: SlurmCluster, submit: Submit, undisturbed: Path
) -> None:
    """Notice, preemption, a requeue from outside, a lost node, a killed rank: the weights stay the same."""
    training = Training(idle_cluster, submit, "unlucky", "--partition=low")
    training.until_trained(epochs=1)
    idle_cluster.run("scancel", "--signal=USR1", str(training.job))
    idle_cluster.until(lambda: idle_cluster.state(training.job) == "PENDING", 120, "the end of a start")
    assert "is queued again" in training.log()
    training.started_again()

    # A job of a partition with more weight takes the nodes; Slurm gives notice by the script's signal.
    training.until_trained(epochs=1)
    before = training.batches()
    high = idle_cluster.submit("--partition=high", "--nodes=2", "--time=1", "--wrap=sleep 1")
    assert idle_cluster.finish(high) == "COMPLETED"
    assert "stopped by SIGUSR1" in training.log()
    assert training.batches() >= before
    training.started_again()

    training.until_trained(epochs=1)
    idle_cluster.run("scontrol", "requeue", str(training.job))
    training.started_again()

    training.until_trained(epochs=1)
    saved = training.batches()
    idle_cluster.kill_node(NODES[1])
    idle_cluster.until(lambda: idle_cluster.state(training.job) == "PENDING", 120, "the end of a start")
    idle_cluster.start_node(NODES[1])
    training.started_again()
    assert saved <= training.resumed_at() <= training.batches()

    # A rank that is killed fails the job; another job of the same name resumes the run.
    training.until_trained(epochs=1)
    [rank] = idle_cluster.tasks(training.job, rank=1)
    os.kill(rank, signal.SIGKILL)
    assert idle_cluster.finish(training.job) == "FAILED"
    saved = training.batches()
    assert saved >= 5 * BATCHES
    again = Training(idle_cluster, submit, "unlucky")
    again.until_training()
    assert again.resumed_at() == saved
    again.ends_like(undisturbed)
