"""The shipped script on a real Slurm: what it starts, how a job ends, and how a stopped run resumes.

One file, because pytest-xdist gives each file to one worker: one cluster serves all its tests.
"""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.debian import PackagesMissing
from tests.support.run_comparison import assert_equal_runs, contents
from tests.support.slurm_cluster import NODES, SlurmCluster, fetch_slurm
from yolo_lightning.cli.submit import submit as submit_command
from yolo_lightning.data.synthetic import make_dataset

pytestmark = pytest.mark.slurm

SCRIPT = Path(__file__).parents[2] / "scripts" / "submit_slurm.sh"
EPOCHS, BATCHES = 16, 6
"""Of a run, and of an epoch of it on each rank."""
REQUEUES = 10

Submit = Callable[..., int]
"""``submit(run_name, *options of sbatch, **environment)`` gives the number of a job on two nodes."""


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def undisturbed_job(cluster: SlurmCluster, submit: Submit) -> int:
    """Number of a job that nothing has happened to."""
    job = submit("undisturbed")
    assert cluster.finish(job, 200) == "COMPLETED", cluster.tell()
    return job


@pytest.fixture(scope="module")
def undisturbed(cluster: SlurmCluster, undisturbed_job: int) -> Path:
    """Directory of its run."""
    return cluster.folder / "runs" / "undisturbed" / "version_0"


@pytest.mark.slow
def test_a_run_on_two_nodes(cluster: SlurmCluster, undisturbed_job: int, undisturbed: Path) -> None:
    """Each rank sees half of the images, and what is left is that of any run."""
    assert json.loads((undisturbed / "summary.json").read_text())["epochs"] == EPOCHS
    progress = contents(undisturbed)["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    assert progress["total"]["processed"] == EPOCHS * BATCHES
    assert "Starting with 2 processes" in cluster.log(undisturbed_job)


class Program:
    """Stands in for Python: each start does what is written for it, and notes how it was called."""

    def __init__(self, cluster: SlurmCluster, folder: Path) -> None:
        self.cluster, self.path, self.calls = cluster, folder / "program", folder / "calls"

    def submit(self, *starts: str, options: tuple[str, ...] = (), **environment: str) -> int:
        """Submit the shipped script; what all ranks do at each start, in bash, the last one from then on."""
        cases = [f"{n}) {start} ;;" for n, start in enumerate(starts[:-1])]
        lines = [
            "#!/bin/bash",
            f'echo "$SLURM_PROCID $MASTER_ADDR $MASTER_PORT $*" >>{self.calls}',
            "case ${SLURM_RESTART_COUNT:-0} in", *cases, f"*) {starts[-1]} ;;", "esac",
        ]  # fmt: skip
        self.path.write_text("\n".join(lines))
        self.path.chmod(0o755)
        of_sbatch = ("--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=0", "--time=10", *options)
        return self.cluster.submit(*of_sbatch, SCRIPT, environment={"PYTHON": str(self.path), **environment})

    def until_called(self, times: int) -> None:
        """Wait until so many processes have begun."""
        self.cluster.until(lambda: len(self.called()) >= times, 120, f"{times} processes")

    def called(self) -> list[str]:
        """A line for each process that was started."""
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def program(idle_cluster: SlurmCluster, tmp_path: Path) -> Program:
    return Program(idle_cluster, tmp_path)


def test_every_process_is_told_where_to_meet_and_where_the_run_lives(program: Program) -> None:
    cluster = program.cluster
    job = program.submit("exit 0", options=("--ntasks-per-node=2",))
    assert cluster.finish(job) == "COMPLETED"
    ranks, addresses, ports, arguments = zip(*(line.split(" ", 3) for line in program.called()), strict=True)
    assert sorted(ranks) == ["0", "1", "2", "3"]
    assert set(addresses) == {"127.0.0.1"}
    assert set(ports) == {str(15000 + job)}
    assert set(arguments) == {
        "-m yolo_lightning fit --trainer.accelerator auto --trainer.num_nodes 2 --trainer.devices 2 "
        f"--runs_dir {cluster.folder}/runs --run_name slurm-{job} --ckpt_path auto"
    }


def test_a_failure_ends_the_job_as_failed(program: Program) -> None:
    """One rank fails, the other would wait for it for ever."""
    job = program.submit('[ "$SLURM_PROCID" = 1 ] && exit 3; sleep 600')
    assert program.cluster.finish(job) == "FAILED"
    assert program.cluster.job(job)["Restarts"] == "0"


def test_notice_before_the_program_listens_queues_the_job_again(program: Program) -> None:
    cluster = program.cluster
    job = program.submit("sleep 600", "exit 0")
    program.until_called(2)
    cluster.run("scancel", "--signal=USR1", str(job))
    cluster.begin(job, 2)
    assert cluster.finish(job) == "COMPLETED"
    assert "notice came before the program listened; the job is queued again" in cluster.log(job)
    assert re.search(r"job \d+: start 2 on", cluster.log(job))


def test_a_job_that_never_comes_to_listen_ends(program: Program) -> None:
    cluster = program.cluster
    job = program.submit("kill -USR1 $$", MAX_RESTARTS="1")
    cluster.begin(job, 2)
    assert cluster.finish(job) == "FAILED"
    assert cluster.job(job)["Restarts"] == "1"
    assert "the job has started again 1 times and ends here" in cluster.log(job)


def test_a_saved_run_that_could_not_reach_slurm_is_queued_again_by_the_script(program: Program) -> None:
    cluster = program.cluster
    job = program.submit("trap '' TERM; exit 75", "exit 0")
    cluster.begin(job, 2)
    assert cluster.finish(job) == "COMPLETED"


def test_a_saved_run_that_has_queued_itself_is_started_once_more(program: Program) -> None:
    cluster = program.cluster
    job = program.submit(
        'trap "" TERM; [ "$SLURM_PROCID" = 0 ] && scontrol requeue "$SLURM_JOB_ID"; exit 75', "exit 0"
    )
    cluster.begin(job, 2)
    assert cluster.finish(job) == "COMPLETED"
    assert cluster.job(job)["Restarts"] == "1"


def test_a_cancelled_job_stays_cancelled(program: Program) -> None:
    """Though its program saves itself and would be started again."""
    cluster = program.cluster
    code = "from yolo_lightning.system import signals; print(signals.requeue())"
    job = program.submit(
        f"""trap '{sys.executable} -c "{code}"; exit 75' TERM; while :; do sleep 0.1; done""", "exit 0"
    )
    program.until_called(2)
    cluster.run("scancel", str(job))
    assert cluster.finish(job) == "CANCELLED"
    cluster.until(lambda: cluster.node_states() == ["idle", "idle"], 120, "idle nodes")
    assert cluster.state(job) == "CANCELLED"


@pytest.mark.parametrize("option", ["--ckpt_path=last", "--run_name", "--trainer.devices=4"])
def test_options_that_are_the_scripts_own_are_refused(idle_cluster: SlurmCluster, option: str) -> None:
    job = idle_cluster.submit("--nodes=1", "--ntasks-per-node=1", "--gpus-per-node=0", SCRIPT, option)
    assert idle_cluster.finish(job) == "FAILED"
    assert idle_cluster.job(job)["ExitCode"] == "2:0"
    assert f"{option} " in idle_cluster.log(job)


def test_the_command_submits_a_job(
    idle_cluster: SlurmCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster = idle_cluster
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "python"
    program.write_text('#!/bin/bash\necho "called with $*"\n')
    program.chmod(0o755)
    own = ["--nodes=2", "--gpus-per-node=0", "--cpus-per-task=1", "--time=5", "--partition=low"]
    command = ["fit", "--data.root", "/data/of mine", "--run_name=mine", "--trainer.num_nodes=2"]
    assert submit_command(["slurm", *own, f"--venv={tmp_path}", "--", *command]) == 0
    printed = capsys.readouterr().out
    job = int(re.match(r"job (\d+) is submitted", printed)[1])  # type: ignore[index]
    assert cluster.finish(job) == "COMPLETED"
    runs = tmp_path / "runs"
    assert f"tail -F {runs}/slurm-{job}.log" in printed
    assert f"{runs}/mine/version_0" in printed
    expected = (
        "called with -m yolo_lightning fit --trainer.accelerator cpu --data.root /data/of mine "
        f"--trainer.num_nodes 2 --trainer.devices 1 --runs_dir {runs} --run_name mine --ckpt_path auto"
    )
    assert cluster.log(job).count(expected) == 2
    assert (runs / f"slurm-{job}.sh").read_text().startswith("#!/bin/bash")


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
@pytest.mark.slow
@pytest.mark.timeout(900)
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


@pytest.mark.slow
@pytest.mark.timeout(900)
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
    [sentence] = [line for line in training.log().splitlines() if line.startswith("error: ")]
    assert f"(pid {rank}): was killed or died in epoch " in sentence
    saved = training.batches()
    assert saved >= 5 * BATCHES
    again = Training(idle_cluster, submit, "unlucky")
    again.until_training()
    assert again.resumed_at() == saved
    again.ends_like(undisturbed)
