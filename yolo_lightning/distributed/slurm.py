"""The job script: ``submit_slurm.sh`` beside this file, with other values in its lines."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import InputError

TEMPLATE = Path(__file__).with_name("submit_slurm.sh")
"""A script that works as it is; ``scripts/submit_slurm.sh`` is a link to it."""

_WORD = re.compile(r"[^\s'\"\\`$#]+")
"""Values of an ``#SBATCH`` line that no shell interprets."""


def _option(default: Any, group: str, metavar: str, help: str, type: Callable[[str], Any] = str) -> Any:
    """Field of a job that is an option of ``submit slurm``."""
    return field(default=default, metadata={"group": group, "metavar": metavar, "help": help, "type": type})


_number = partial(_option, type=int)


@dataclass(frozen=True)
class SlurmJob:
    """A training job; the defaults are those of ``submit_slurm.sh``, and None leaves the choice to it.

    Raises:
        InputError: a value is impossible; says which and what to give.
    """

    nodes: int = _number(1, "size", "N", "default: 1")
    gpus_per_node: int = _number(8, "size", "N", "one process each; 0 trains on CPUs (default: 8)")
    tasks_per_node: int | None = _number(None, "size", "N", "processes on a node without GPUs (default: 1)")
    cpus_per_task: int = _number(8, "size", "N", "cores for each process, which decode images (default: 8)")
    time: str = _option("24:00:00", "size", "TIME", "limit: 90 (minutes), 24:00:00, 3-12 (default: 24:00:00)")
    partition: str | None = _option(None, "queue", "NAME", "as sinfo lists them (default: Slurm's)")
    account: str | None = _option(None, "queue", "NAME", "who pays (default: Slurm's)")
    constraint: str | None = _option(None, "queue", "FEATURE", "feature of the nodes, such as a100")
    job_name: str = _option("yolo-lightning", "queue", "NAME", "default: %(default)s")
    signal_seconds: int = _number(
        120, "queue", "S",
        "notice before the limit or a pre-emption, enough for a batch and a checkpoint (default: 120)",
    )  # fmt: skip
    sbatch: Sequence[str] = ()
    """Further options of sbatch, such as ``--qos=long``."""
    runs_dir: str | None = _option(None, "place", "DIR", "folder of all runs, for all nodes (default: runs)")
    run_name: str | None = _option(
        None, "place", "NAME",
        "an earlier run of this name is resumed (default: slurm- and the number of the job)",
    )  # fmt: skip
    local_cache: str | None = _option(
        None, "place", "DIR",
        "folder of a node for decoded images, such as '$TMPDIR' (default: beside the data, shared)",
    )  # fmt: skip
    python: str | None = None
    """Interpreter of the environment that the nodes use."""
    accelerator: str | None = None
    """``gpu`` or ``cpu``."""
    fit_options: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("nodes", "gpus_per_node", "tasks_per_node", "cpus_per_task", "signal_seconds"):
            value, least = getattr(self, name), 0 if name == "gpus_per_node" else 1
            if value is not None and value < least:
                raise InputError(f"{option_name(name)} is {value}; give {least} or more")
        if self.gpus_per_node and self.tasks_per_node not in (None, self.gpus_per_node):
            raise InputError(
                f"--tasks-per-node is {self.tasks_per_node} but each of a node's {self.gpus_per_node} GPUs "
                "has one process; leave it out"
            )
        if self.job_name in ("bash", "interactive"):
            raise InputError(f"--job-name {self.job_name} means an interactive job; give another")
        for name in ("job_name", "time", "partition", "account", "constraint"):
            value = getattr(self, name)
            if value is not None and not _WORD.fullmatch(value):
                raise InputError(
                    f"{option_name(name)} {value!r} cannot stand in a job script; give a plain word"
                )
        for option in self.sbatch:
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


def split_fit_options(
    command: Sequence[str], nodes: int, processes_per_node: int, accelerator: str
) -> tuple[list[str], str | None, str | None]:
    """Remove from a ``fit`` command the options that the job script sets, if they agree with the job.

    Returns:
        The other options, ``runs_dir`` and ``run_name``.

    Raises:
        InputError: it is not ``fit``, or an option contradicts the job.
    """
    if not command or command[0] != "fit":
        given = command[0] if command else "nothing"
        raise InputError(f"after -- comes {given}; a job trains, so give: -- fit --data.root DIR …")
    count = str(processes_per_node)
    accelerators = ("gpu", "cuda", "auto") if accelerator == "gpu" else ("cpu", "auto")
    settled = {
        "trainer.num_nodes": ((str(nodes),), f"--nodes is {nodes}"),
        "trainer.devices": ((count, "auto"), f"a node of the job has {count} processes"),
        "trainer.accelerator": (accelerators, f"the nodes of the job train on {accelerator}"),
    }
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in (*settled, "runs_dir", "run_name", "ckpt_path"):
        parser.add_argument(f"--{name}", nargs="?", const="")
    found, others = parser.parse_known_args(command[1:])
    if found.ckpt_path is not None:
        raise InputError(
            "--ckpt_path is set by the job, which resumes from its own last.ckpt whenever it starts; to "
            "resume an earlier run give --run-name, to start from weights --model.weights"
        )
    for name, (allowed, why) in settled.items():
        value = getattr(found, name)
        if value not in (None, *allowed):
            raise InputError(f"--{name} is {value} but {why}; leave --{name} out")
    return others, found.runs_dir, found.run_name


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
    lines = ["#SBATCH --requeue", *(f"#SBATCH {option}" for option in job.sbatch)]
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


def option_name(field_name: str) -> str:
    """Option of ``submit slurm`` for a field of :class:`SlurmJob`."""
    return "--" + field_name.replace("_", "-")
