"""The command line: dispatches to LightningCLI's subcommands and to our own commands."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from jsonargparse import auto_cli, set_parsing_settings

from ..runs.directory import with_run_config
from ..system.cores import limit_threads
from ..system.memory import keep_freed_memory
from .audit import run_audit
from .check import run_check
from .command_parser import FitParser
from .convert import run_convert
from .doctor import run_doctor
from .launcher import YoloCLI, launch
from .replay import run_replay
from .report import run_compare, run_report
from .seeds import fit_seeds
from .submit import submit
from .synth import synth
from .visualize import run_visualize

COMMANDS: dict[str, Callable[[list[str]], Any]] = {
    "synth": lambda argv: auto_cli(
        synth, args=argv, as_positional=False, prog="yolo-lightning synth", parser_class=FitParser
    ),
    "audit": run_audit,
    "check": run_check,
    "convert": run_convert,
    "doctor": run_doctor,
    "submit": lambda argv: sys.exit(submit(argv)),
    "replay": run_replay,
    "report": run_report,
    "compare": run_compare,
    "visualize": run_visualize,
}
"""Our own commands by name; each is given its arguments."""


def quieten() -> None:
    """Hide messages of Lightning that are advertising, or wrong for how this package uses it."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).addFilter(
            lambda record: not str(record.msg).startswith(("💡", "TPU available", "Seed set"))
        )
    for message in (
        ".*smaller than the logging interval.*",  # nothing is logged by the step
        ".*isinstance.treespec, LeafSpec.*",
        ".*does not have many workers.*",  # workers follow the cores
        ".*checkpoint directory .* exists and is not empty.*",  # a run that resumes
        ".*callbacks used to create the checkpoint need to be provided.*",  # evaluation needs none of fit's
        ".*sync_dist=True.*",  # what is logged is the same on all ranks, or is reduced already
    ):
        warnings.filterwarnings("ignore", message=message)


def run(argv: list[str]) -> None:
    """Run a command, given with its arguments and without the program's name.

    Raises:
        InputError: wrong input.
        SystemExit: wrong options (status 2) or ``--help``.
    """
    quieten()
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    torch.set_float32_matmul_precision("high")  # TF32 where a GPU has it; nothing on a CPU
    limit_threads()
    keep_freed_memory()
    command = argv[0] if argv else "--help"
    if command == "fit" and any(re.fullmatch("--seeds(=.*)?", option) for option in argv):
        fit_seeds(argv[1:])
    elif command in COMMANDS:
        COMMANDS[command](argv[1:])
    else:
        launch(YoloCLI, with_run_config(argv or ["--help"]))
