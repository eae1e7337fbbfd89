"""``yolo-lightning submit slurm``: write a job script for a cluster and submit it."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from ..distributed.slurm import SlurmJob, sbatch_text, split_fit_options
from ..errors import InputError
from .command_parser import CommandParser

_DESCRIPTION = """Submits a fit command to Slurm, with one process for each GPU of each node. Before its time
limit, or if it is pre-empted, the job saves a checkpoint, goes back into the queue, and resumes later.

  yolo-lightning submit slurm --nodes 4 --gpus-per-node 8 -- fit --data.root /data/coco --data.batch_size 16

The nodes and devices of fit are filled in; data.batch_size remains the batch of one process."""

_NOT_OF_THE_JOB = ("cluster", "dry_run", "venv")
_EPILOG = "A fit command follows --; see: yolo-lightning fit --help"


def submit(argv: list[str]) -> int:
    """Submit a job, or print the script that would be submitted.

    Args:
        argv: kind of cluster, options, ``--`` and a ``fit`` command.

    Returns:
        Exit status: 0, or 1 if there is no sbatch and the script was printed instead.

    Raises:
        InputError: an option is wrong, or sbatch refuses the job.
        SystemExit: ``--help``.
    """
    end = argv.index("--") if "--" in argv else len(argv)
    options = _parser().parse_args(argv[:end])
    job = _job(options, argv[end + 1 :])
    text = sbatch_text(job)
    if options.dry_run:
        print(text, end="")
        return 0
    if shutil.which("sbatch") is None:
        print(text, end="")
        print(
            "sbatch is not on this machine: above is what it would get; nothing is submitted", file=sys.stderr
        )
        return 1
    _submit(job, text)
    return 0


def _job(options: argparse.Namespace, command: list[str]) -> SlurmJob:
    accelerator = "gpu" if options.gpus_per_node else "cpu"
    processes = options.gpus_per_node or options.tasks_per_node or 1
    fit = split_fit_options(command, options.nodes, processes, accelerator)
    given = {name: value for name, value in vars(options).items() if name not in _NOT_OF_THE_JOB}
    for name in ("runs_dir", "run_name"):
        ours, theirs = given[name], getattr(fit, name)
        if ours and theirs and ours != theirs:
            raise InputError(f"--{name} is {theirs} but --{name.replace('_', '-')} is {ours}; leave one out")
        given[name] = ours or theirs
    given["runs_dir"] = str(Path(given["runs_dir"] or "runs").expanduser().absolute())
    python = _python(options.venv)
    return SlurmJob(**given, python=python, accelerator=accelerator, fit_options=tuple(fit.others))


def _python(venv: str | None) -> str:
    """Interpreter of an environment; None means this process's."""
    if venv is None:
        return sys.executable
    python = Path(venv).expanduser().absolute() / "bin" / "python"
    if not python.is_file():
        raise InputError(f"--venv {venv}: has no bin/python; give an environment that the nodes see")
    return str(python)


def _submit(job: SlurmJob, text: str) -> None:
    assert job.runs_dir is not None
    runs = Path(job.runs_dir)
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--runs-dir {runs}: cannot be made ({error.strerror}); give another") from None
    command = ["sbatch", "--parsable", f"--output={runs}/slurm-%j.log"]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"sbatch refuses the job: {' '.join(done.stderr.split())}")
    number = done.stdout.strip().split(";")[0]
    script = runs / f"slurm-{number}.sh"
    script.write_text(text)
    if done.stderr.strip():
        print(done.stderr.strip(), file=sys.stderr)
    print(_summary(job, number, runs, script))


def _summary(job: SlurmJob, number: str, runs: Path, script: Path) -> str:
    name = job.run_name or f"slurm-{number}"
    what = f"{job.gpus_per_node} GPUs" if job.gpus_per_node else f"{job.processes_per_node} processes on CPUs"
    log = shlex.quote(str(runs / f"slurm-{number}.log"))
    quoted = shlex.quote(str(script))
    return f"""job {number} is submitted: nodes {job.nodes}, each with {what}
  run directory  {runs / name / "version_0"}
  log            tail -F {log}
  state          squeue --job {number}
  stop           scancel {number}
  save, requeue  scancel --signal=USR1 {number}
  resume         RUN_NAME={name} sbatch --output={log} {quoted} --trainer.max_epochs N"""


def _parser() -> CommandParser:
    usage = "slurm [options] -- fit --data.root DIR [options of fit]"
    parser = CommandParser("submit", usage, _DESCRIPTION, _EPILOG)
    parser.add_argument("cluster", choices=["slurm"], help="kind of cluster")
    size = parser.add_argument_group("size")
    size.add_argument("--nodes", type=int, default=SlurmJob.nodes, metavar="N", help="default: 1")
    size.add_argument(
        "--gpus-per-node", type=int, default=SlurmJob.gpus_per_node, metavar="N",
        help="one process each; 0 trains on CPUs (default: 8)",
    )  # fmt: skip
    size.add_argument(
        "--tasks-per-node", type=int, metavar="N", help="processes on a node without GPUs (default: 1)"
    )
    size.add_argument(
        "--cpus-per-task", type=int, default=SlurmJob.cpus_per_task, metavar="N",
        help="cores for each process, which decode images (default: 8)",
    )  # fmt: skip
    size.add_argument(
        "--time", default=SlurmJob.time, help="limit: 90 (minutes), 24:00:00, 3-12 (default: 24:00:00)"
    )
    queue = parser.add_argument_group("queue")
    queue.add_argument("--partition", metavar="NAME", help="as sinfo lists them (default: Slurm's)")
    queue.add_argument("--account", metavar="NAME", help="who pays (default: Slurm's)")
    queue.add_argument("--constraint", metavar="FEATURE", help="feature of the nodes, such as a100")
    queue.add_argument("--job-name", default=SlurmJob.job_name, metavar="NAME", help="default: %(default)s")
    queue.add_argument(
        "--signal-seconds", type=int, default=SlurmJob.signal_seconds, metavar="S",
        help="notice before the limit or a pre-emption, enough for a batch and a checkpoint (default: 120)",
    )  # fmt: skip
    queue.add_argument(
        "--sbatch", action="append", default=[], dest="more", metavar="OPTION",
        help="another option of sbatch; repeatable: --sbatch=--qos=long --sbatch=--exclusive",
    )  # fmt: skip
    place = parser.add_argument_group("place")
    place.add_argument("--runs-dir", metavar="DIR", help="folder of all runs, for all nodes (default: runs)")
    place.add_argument(
        "--run-name", metavar="NAME",
        help="an earlier run of this name is resumed (default: slurm- and the number of the job)",
    )  # fmt: skip
    place.add_argument(
        "--local-cache", metavar="DIR",
        help="folder of a node for decoded images, such as '$TMPDIR' (default: beside the data, shared)",
    )  # fmt: skip
    place.add_argument("--venv", metavar="DIR", help="environment that the nodes use (default: this one)")
    parser.add_argument("--dry-run", action="store_true", help="print the job script and submit nothing")
    return parser
