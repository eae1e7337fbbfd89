"""The shipped script on a real Slurm: what it starts, and how a job ends."""

import json
import re
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import BATCHES, EPOCHS, SCRIPT
from tests.support.run_comparison import contents
from tests.support.slurm_cluster import SlurmCluster
from yolo_lightning.cli.submit import submit as submit_command

pytestmark = pytest.mark.slurm


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
