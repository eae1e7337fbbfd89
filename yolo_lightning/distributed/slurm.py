"""The job script: ``submit_slurm.sh`` beside this file, with other values in its lines."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError

TEMPLATE = Path(__file__).with_name("submit_slurm.sh")
"""A script that works as it is; ``scripts/submit_slurm.sh`` is a link to it."""

_WORD = re.compile(r"[^\s'\"\\`$#]+")
"""Values of an ``#SBATCH`` line that no shell interprets."""
_INTERACTIVE = ("bash", "interactive")


@dataclass(frozen=True)
class SlurmJob:
    """A training job; the defaults are those of ``submit_slurm.sh``.

    Attributes:
        gpus_per_node: 0 trains on CPUs.
        tasks_per_node: Processes on a node: with GPUs one for each; without, None is 1.
        cpus_per_task: Cores for each process, which decode images.
        time: Limit in Slurm's notation, such as ``24:00:00`` or ``3-12``.
        signal_seconds: Notice before the limit or a pre-emption, 1 to 65535 s.
        partition: None leaves the choice to Slurm.
        account: None for the user's default.
        constraint: Features that nodes must have, such as ``a100``.
        more: Further options of sbatch, such as ``--qos=long``.
        python: Interpreter of the environment that the nodes use; None is that of ``.venv`` where the job
            is submitted.
        runs_dir: Folder of all runs; None is ``runs`` where the job is submitted.
        run_name: None names the run after the job.
        local_cache: Folder for decoded images on each node; ``$NAME`` is that of each node.
        accelerator: ``gpu`` or ``cpu``; None leaves it to what the nodes have.

    Raises:
        InputError: a value is impossible; says which and what to give.
    """

    nodes: int = 1
    gpus_per_node: int = 8
    tasks_per_node: int | None = None
    cpus_per_task: int = 8
    time: str = "24:00:00"
    job_name: str = "yolo-lightning"
    signal_seconds: int = 120
    partition: str | None = None
    account: str | None = None
    constraint: str | None = None
    more: Sequence[str] = ()
    python: str | None = None
    runs_dir: str | None = None
    run_name: str | None = None
    local_cache: str | None = None
    accelerator: str | None = None
    fit_options: Sequence[str] = field(default=())

    def __post_init__(self) -> None:
        for name, least in (("nodes", 1), ("gpus_per_node", 0), ("cpus_per_task", 1), ("signal_seconds", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{_option(name)} is {getattr(self, name)}; give {least} or more")
        if self.tasks_per_node is not None and self.tasks_per_node < 1:
            raise InputError(f"--tasks-per-node is {self.tasks_per_node}; give 1 or more")
        if self.gpus_per_node and self.tasks_per_node not in (None, self.gpus_per_node):
            raise InputError(
                f"--tasks-per-node is {self.tasks_per_node} but each of a node's {self.gpus_per_node} GPUs "
                "has one process; leave it out"
            )
        if self.job_name in _INTERACTIVE:
            raise InputError(f"--job-name {self.job_name} means an interactive job; give another")
        for name in ("job_name", "time", "partition", "account", "constraint"):
            value = getattr(self, name)
            if value is not None and not _WORD.fullmatch(value):
                raise InputError(f"{_option(name)} {value!r} cannot stand in a job script; give a plain word")
        for option in self.more:
            if not re.fullmatch(rf"--[a-z][a-z-]*(={_WORD.pattern})?", option):
                raise InputError(f"--sbatch {option!r} is not an option of sbatch; write --sbatch=--qos=long")
        if self.local_cache is not None and re.search(r"[\"`\\\n]|\$\(", self.local_cache):
            raise InputError(f"--local-cache {self.local_cache!r} is no folder; give one such as '$TMPDIR'")
        if self.run_name is not None and not re.fullmatch(r"\w[\w.+-]*", self.run_name):
            raise InputError(f"--run-name {self.run_name!r} is not the name of a folder; give a plain word")

    @property
    def processes_per_node(self) -> int:
        """One process for each GPU, or ``tasks_per_node``."""
        return self.gpus_per_node or self.tasks_per_node or 1


class FitOptions(NamedTuple):
    """Options of ``fit``, apart from those that the job script sets itself."""

    others: list[str]
    runs_dir: str | None
    run_name: str | None


def split_fit_options(
    command: Sequence[str], nodes: int, processes_per_node: int, accelerator: str
) -> FitOptions:
    """Remove from a ``fit`` command the options that the job script sets, if they agree with the job.

    Args:
        command: ``fit`` and its options.
        nodes: of the job, as the next two.
        processes_per_node: one for each GPU.
        accelerator: ``gpu`` or ``cpu``.

    Raises:
        InputError: it is not ``fit``, or an option contradicts the job.
    """
    if not command or command[0] != "fit":
        given = command[0] if command else "nothing"
        raise InputError(f"after -- comes {given}; a job trains, so give: -- fit --data.root DIR …")
    settled = {
        "trainer.num_nodes": ((str(nodes),), f"--nodes is {nodes}"),
        "trainer.devices": (
            (str(processes_per_node), "auto"),
            f"a node of the job has {processes_per_node} processes",
        ),
        "trainer.accelerator": (
            (accelerator, "auto", *(["cuda"] if accelerator == "gpu" else [])),
            f"the nodes of the job train on {accelerator}",
        ),
    }
    others, found = [], {}
    words = iter(command[1:])
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        ours = word.startswith("--") and (name in settled or name in ("runs_dir", "run_name", "ckpt_path"))
        if not ours:
            others.append(word)
            continue
        found[name] = value if equals else next(words, "")
        if name == "ckpt_path":
            raise InputError(
                "--ckpt_path is set by the job, which resumes from its own last.ckpt whenever it starts; to "
                "resume an earlier run give --run-name, to start from weights --model.weights"
            )
        if name in settled and found[name] not in settled[name][0]:
            raise InputError(f"--{name} is {found[name]} but {settled[name][1]}; leave --{name} out")
    return FitOptions(others, found.get("runs_dir"), found.get("run_name"))


def sbatch_text(job: SlurmJob) -> str:
    """Write the script of a job; with default values it is ``submit_slurm.sh`` to the letter."""
    text = TEMPLATE.read_text(encoding="utf-8")
    directives = {
        "job-name": job.job_name,
        "nodes": job.nodes,
        "ntasks-per-node": job.processes_per_node,
        "gpus-per-node": job.gpus_per_node,
        "cpus-per-task": job.cpus_per_task,
        "time": job.time,
        "partition": job.partition,
        "account": job.account,
        "constraint": job.constraint,
        "signal": f"USR1@{job.signal_seconds}",
    }
    for name, value in directives.items():
        if value is not None:
            text = _with_line(text, rf"#?#SBATCH --{name}=.*", f"#SBATCH --{name}={value}")
    lines = ["#SBATCH --requeue", *(f"#SBATCH {option}" for option in job.more)]
    text = _with_line(text, "#SBATCH --requeue", "\n".join(lines))
    assignments = {
        "runs_dir": job.runs_dir and shlex.quote(job.runs_dir),
        "run_name": job.run_name and f'"${{RUN_NAME:-{job.run_name}}}"',
        "python": job.python and shlex.quote(job.python),
        "local_cache": job.local_cache and shlex.quote(job.local_cache),
        "accelerator": job.accelerator,
    }
    for name, code in assignments.items():
        if code:
            text = _with_line(text, rf"{name}=(auto|\"\$\{{.*)", f"{name}={code}")
    arguments = shlex.join([*job.fit_options, ""]).removesuffix("''")
    return _with_line(text, r'set -- "\$@"', f'set -- {arguments}"$@"')


def _with_line(text: str, pattern: str, line: str) -> str:
    """Replace the one line of a text that matches a pattern."""
    replaced, number = re.subn(rf"^{pattern}$", lambda _: line, text, flags=re.MULTILINE)
    assert number == 1, f"{TEMPLATE.name} has {number} lines {pattern}"
    return replaced


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
