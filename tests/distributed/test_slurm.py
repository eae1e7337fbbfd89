import re
import shlex
import subprocess
from pathlib import Path

import pytest

from yolo_lightning.distributed.slurm import SlurmJob, sbatch_text, split_fit_options
from yolo_lightning.errors import InputError

SCRIPT = Path(__file__).parents[2] / "scripts" / "submit_slurm.sh"


def changed(job: SlurmJob) -> set[str]:
    """Lines of the script for a job that the shipped script does not have."""
    return set(sbatch_text(job).splitlines()) - set(SCRIPT.read_text().splitlines())


def test_the_shipped_script_is_the_job_with_default_values() -> None:
    assert sbatch_text(SlurmJob()) == SCRIPT.read_text()


def test_each_value_reaches_its_line() -> None:
    job = SlurmJob(
        nodes=4, gpus_per_node=2, cpus_per_task=6, time="2-12", partition="a100", account="vision",
        constraint="nvlink", job_name="coco", signal_seconds=300, sbatch=("--qos=long", "--exclusive"),
        python="/env/bin/python", runs_dir="/runs of all", run_name="first", local_cache="$TMPDIR/images",
        accelerator="gpu", fit_options=("--data.root", "/data/a b", "--model.weights=$HOME/x.pt"),
    )  # fmt: skip
    assert changed(job) == {
        "#SBATCH --nodes=4", "#SBATCH --ntasks-per-node=2", "#SBATCH --gpus-per-node=2",
        "#SBATCH --cpus-per-task=6", "#SBATCH --time=2-12", "#SBATCH --partition=a100",
        "#SBATCH --account=vision", "#SBATCH --constraint=nvlink", "#SBATCH --job-name=coco",
        "#SBATCH --signal=USR1@300", "#SBATCH --qos=long", "#SBATCH --exclusive",
        "python=/env/bin/python", "runs_dir='/runs of all'", 'run_name="${RUN_NAME:-first}"',
        "local_cache='$TMPDIR/images'", "accelerator=gpu",
        "set -- --data.root '/data/a b' '--model.weights=$HOME/x.pt' \"$@\"",
    }  # fmt: skip


def test_the_options_of_sbatch_come_before_the_first_command() -> None:
    """Slurm reads no further."""
    lines = sbatch_text(SlurmJob(sbatch=("--qos=long",))).splitlines()
    commands = [n for n, line in enumerate(lines) if line and not line.startswith("#")]
    options = [n for n, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert max(options) < min(commands)
    names = [re.split("[ =]", lines[n])[1] for n in options]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("options", [(), ("--data.root", 'it\'s $(here) "and" `there`\n', "")])
def test_the_text_is_a_script_that_hands_on_the_options_unchanged(options: tuple[str, ...]) -> None:
    text = sbatch_text(SlurmJob(fit_options=options, run_name="a", runs_dir="/b'c", local_cache="$TMPDIR"))
    assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).stderr == ""
    [line] = re.findall(r'^set -- .*?"\$@"$', text, flags=re.M | re.S)
    script = f'{line}\nprintf "%s\\0" "$@"'
    done = subprocess.run(["bash", "-c", script, "bash", "more"], text=True, capture_output=True, check=True)
    assert done.stdout.split("\0")[:-1] == [*options, "more"]


def test_without_gpus_there_are_as_many_processes_as_asked_for() -> None:
    job = SlurmJob(gpus_per_node=0, tasks_per_node=3)
    assert {"#SBATCH --ntasks-per-node=3", "#SBATCH --gpus-per-node=0"} <= changed(job)
    assert SlurmJob(gpus_per_node=0).processes_per_node == 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"nodes": 0}, "--nodes is 0; give 1 or more"),
        ({"gpus_per_node": -1}, "--gpus-per-node is -1; give 0 or more"),
        ({"cpus_per_task": 0}, "--cpus-per-task is 0"),
        ({"signal_seconds": 0}, "--signal-seconds is 0"),
        ({"gpus_per_node": 0, "tasks_per_node": 0}, "--tasks-per-node is 0"),
        ({"gpus_per_node": 8, "tasks_per_node": 4}, "leave it out"),
        ({"job_name": "bash"}, "--job-name bash"),
        ({"job_name": "two words"}, "--job-name 'two words'"),
        ({"partition": "a\n#SBATCH --nodes=9"}, "--partition"),
        ({"account": ""}, "--account ''"),
        ({"sbatch": ("qos=long",)}, "--sbatch 'qos=long'"),
        ({"sbatch": ("--comment=two words",)}, "--sbatch"),
        ({"local_cache": '"; rm -r x; "'}, "--local-cache"),
        ({"local_cache": "$(date)"}, "--local-cache"),
        ({"run_name": "a/b"}, "--run-name 'a/b'"),
        ({"run_name": ".."}, "--run-name '..'"),
        ({"time": "1 day"}, "--time '1 day' cannot stand in a job script"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(InputError) as refused:
        SlurmJob(**values)  # type: ignore[arg-type]
    assert words in str(refused.value)


def test_what_the_script_sets_is_taken_out_of_the_options() -> None:
    command = shlex.split(
        "fit --config a.yaml --trainer.num_nodes 4 --trainer.devices=8 --runs_dir /r --run_name=n "
        "--trainer.accelerator auto --data.root --runs --trainer.max_epochs 3"
    )
    others, *folders = split_fit_options(command, 4, 8, "gpu")
    assert others == shlex.split("--config a.yaml --data.root --runs --trainer.max_epochs 3")
    assert folders == ["/r", "n"]
    assert split_fit_options(["fit"], 1, 1, "cpu") == ([], None, None)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", "after -- comes nothing"),
        ("validate --ckpt_path best", "after -- comes validate"),
        ("fit --trainer.num_nodes 2", "--trainer.num_nodes is 2 but --nodes is 4"),
        ("fit --trainer.devices=1", "--trainer.devices is 1 but a node of the job has 8 processes"),
        ("fit --trainer.devices", "--trainer.devices is  but"),
        ("fit --trainer.accelerator cpu", "the nodes of the job train on gpu"),
        ("fit --ckpt_path last", "--ckpt_path is set by the job"),
    ],
)
def test_options_that_contradict_the_job_are_refused(command: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        split_fit_options(command.split(), 4, 8, "gpu")
    assert words in str(refused.value)


FAKES = {
    "scontrol": 'case "$*" in *hostnames*) echo localhost ;; *job*) echo " JobState=COMPLETING" ;; esac',
    "srun": 'printf "%s\\n" "$@" >"$SEEN/arguments"; env >"$SEEN/environment"',
}
"""What the shipped script calls, for one job on this machine."""


def test_the_processes_get_what_the_script_sets_whatever_sbatch_exports(tmp_path: Path) -> None:
    """With sbatch --export=NONE, SLURM_EXPORT_ENV tells srun to hand on nothing unless an option does."""
    for name, body in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    given = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "SEEN": str(tmp_path), "SLURM_JOB_ID": "7",
        "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_NODELIST": "n", "SLURM_JOB_NUM_NODES": "1",
        "SLURM_NTASKS_PER_NODE": "1", "PYTHON": "/bin/true", "SLURM_EXPORT_ENV": "NONE",
        "LOCAL_CACHE": "$OWN/a",
    }  # fmt: skip
    done = subprocess.run(["bash", str(SCRIPT)], env=given, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "--export=ALL" in (tmp_path / "arguments").read_text().splitlines()
    environment = (tmp_path / "environment").read_text().splitlines()
    assert {"MASTER_ADDR=localhost", "MASTER_PORT=15007", "YOLO_LIGHTNING_CACHE=$OWN/a"} <= set(environment)
