"""The command line: dispatches to LightningCLI's subcommands and to our own commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from jsonargparse import auto_cli, set_parsing_settings

from ..runs.directory import with_run_config
from ..system.cores import limit_threads
from ..system.memory import keep_freed_memory
from .compare import run_compare
from .doctor import run_doctor
from .fit_parser import FitParser
from .launcher import YoloCLI, launch
from .lightning_messages import quieten
from .report import run_report
from .submit import submit
from .synth import synth
from .visualize import run_visualize

COMMANDS: dict[str, Callable[[list[str]], Any]] = {
    "synth": lambda argv: auto_cli(
        synth, args=argv, as_positional=False, prog="yolo-lightning synth", parser_class=FitParser
    ),
    "doctor": run_doctor,
    "submit": lambda argv: sys.exit(submit(argv)),
    "report": run_report,
    "compare": run_compare,
    "visualize": run_visualize,
}
"""Our own commands by name; each is given its arguments."""


def run(argv: list[str]) -> None:
    """Run a command.

    Args:
        argv: the command and its arguments, without the program's name.

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
    if command in COMMANDS:
        COMMANDS[command](argv[1:])
    else:
        launch(YoloCLI, with_run_config(argv or ["--help"]))
