"""``yolo-lightning submit slurm``: write a job script for a cluster and submit it."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from ..distributed.slurm import SlurmJob, option_name, sbatch_text, split_fit_options
from ..errors import InputError
from .command_parser import CommandParser

_DESCRIPTION = """Submits a fit command to Slurm, with one process for each GPU of each node. Before its time
limit, or if it is pre-empted, the job saves a checkpoint, goes back into the queue, and resumes later.

  yolo-lightning submit slurm --nodes 4 --gpus-per-node 8 -- fit --data.root /data/coco --data.batch_size 16

The nodes and devices of fit are filled in; data.batch_size remains the batch of one process."""

_EPILOG = "A fit command follows --; see: yolo-lightning fit --help"


def run_submit(argv: list[str]) -> None:
    """Submit a job, and exit with the status of :func:`submit`."""
    sys.exit(submit(argv))


def submit(argv: list[str]) -> int:
    """Submit a job, or print the script that would be submitted.

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
    has_sbatch = shutil.which("sbatch") is not None
    if has_sbatch and not options.dry_run:
        _submit(job, text)
        return 0
    print(text, end="")
    if options.dry_run:
        return 0
    print("sbatch is not on this machine: above is what it would get; nothing is submitted", file=sys.stderr)
    return 1


def _job(options: argparse.Namespace, command: list[str]) -> SlurmJob:
    accelerator = "gpu" if options.gpus_per_node else "cpu"
    processes = options.gpus_per_node or options.tasks_per_node or 1
    others, *of_fit = split_fit_options(command, options.nodes, processes, accelerator)
    given = {field.name: getattr(options, field.name) for field in fields(SlurmJob) if field.name in options}
    for name, theirs in zip(("runs_dir", "run_name"), of_fit, strict=True):
        ours = given[name]
        if ours and theirs and ours != theirs:
            raise InputError(f"--{name} is {theirs} but {option_name(name)} is {ours}; leave one out")
        given[name] = ours or theirs
    given["runs_dir"] = str(Path(given["runs_dir"] or "runs").expanduser().absolute())
    python = sys.executable
    if options.venv:
        python = str(Path(options.venv).expanduser().absolute() / "bin" / "python")
        if not Path(python).is_file():
            raise InputError(f"--venv {options.venv}: has no bin/python; give one that the nodes see")
    return SlurmJob(**given, python=python, accelerator=accelerator, fit_options=tuple(others))


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
    name = job.run_name or f"slurm-{number}"
    what = f"{job.gpus_per_node} GPUs" if job.gpus_per_node else f"{job.processes_per_node} processes on CPUs"
    log = shlex.quote(str(runs / f"slurm-{number}.log"))
    print(f"""job {number} is submitted: nodes {job.nodes}, each with {what}
  run directory  {runs / name / "version_0"}
  log            tail -F {log}
  state          squeue --job {number}
  stop           scancel {number}
  save, requeue  scancel --signal=USR1 {number}
  resume         RUN_NAME={name} sbatch --output={log} {shlex.quote(str(script))} --trainer.max_epochs N""")


def _parser() -> CommandParser:
    usage = "slurm [options] -- fit --data.root DIR [options of fit]"
    parser = CommandParser("submit", usage, _DESCRIPTION, _EPILOG)
    parser.add_argument("cluster", choices=["slurm"], help="kind of cluster")
    groups = {name: parser.add_argument_group(name) for name in ("size", "queue", "place")}
    for option in fields(SlurmJob):
        if option.metadata:
            details = dict(option.metadata)
            group = groups[details.pop("group")]
            group.add_argument(option_name(option.name), default=option.default, **details)
    groups["queue"].add_argument(
        "--sbatch", action="append", default=[], metavar="OPTION",
        help="another option of sbatch; repeatable: --sbatch=--qos=long --sbatch=--exclusive",
    )  # fmt: skip
    groups["place"].add_argument(
        "--venv", metavar="DIR", help="environment that the nodes use (default: this one)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the job script and submit nothing")
    return parser
