"""The front door: ``fit``, ``validate``, ``test``, ``predict`` (LightningCLI) and the other commands."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from jsonargparse import auto_cli, set_parsing_settings

from ..data.module import DetectionDataModule
from ..errors import InputError
from ..runs.directory import with_run_config
from ..runs.save_config import SaveConfig
from ..system.cores import limit_threads
from ..system.memory import keep_freed_memory
from ..training.module import YOLOv5
from ..training.precision import Precision
from .compare import run_compare
from .doctor import diagnose, show
from .launcher import TRAINER_DEFAULTS, DryCLI, YoloCLI
from .parser import Parser, quieten
from .report import run_report
from .submit import submit
from .synth import synth
from .visualize import run_visualize

Cli = TypeVar("Cli", bound=YoloCLI)

COMMANDS: dict[str, Callable[[list[str]], Any]] = {
    "synth": lambda argv: auto_cli(
        synth, args=argv, as_positional=False, prog="yolo-lightning synth", parser_class=Parser
    ),
    "doctor": lambda argv: _doctor(argv),
    "submit": lambda argv: sys.exit(submit(argv)),
    "report": run_report,
    "compare": run_compare,
    "visualize": run_visualize,
}
"""What the command line can do besides Lightning's own subcommands; each is given the arguments."""

_DESCRIPTION = (
    "Train YOLOv5 on your own images. More commands, each with a --help of its own: 'synth' makes a small "
    "data set to try it on, 'doctor' measures what a fit would wait for, 'submit' hands it to a cluster, "
    "'report' makes the page of a run again, 'compare' puts runs side by side, 'visualize' draws what the "
    "layers of a network see"
)

_DOCTOR_HELP = """usage: yolo-lightning doctor [--json] [options of fit]

Measures in about a minute, on your own data and machine, what a fit with these options would wait for:
the loader, the training step in each form, the copy to the device, and all together. Says which one holds
the others up, which options to change, and how long an epoch takes now and then. Nothing is trained.

  --json      print the figures as JSON
  --seconds N about how long it may take, compiling apart (default: 60); on a CPU 300 compiles the network
  --config …, --data.root …, --model.…, --trainer.…    as for fit; see: yolo-lightning fit --help
"""


def run(argv: list[str]) -> None:
    """Parse ``argv`` (without the program's name) and do what it says.

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
        _launch(YoloCLI, with_run_config(argv or ["--help"]))


def _launch(cli: type[Cli], args: list[str]) -> Cli:
    return cli(
        YOLOv5,
        DetectionDataModule,
        save_config_callback=SaveConfig,
        trainer_defaults=TRAINER_DEFAULTS,
        seed_everything_default=0,
        parser_class=Parser,
        parser_kwargs={"prog": "yolo-lightning", "description": _DESCRIPTION},
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        args=args,
    )


def _doctor(argv: list[str]) -> None:
    if {"-h", "--help"} & set(argv):
        print(_DOCTOR_HELP, end="")
        return
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--json", action="store_true")
    own.add_argument("--seconds", default="60")
    options, of_fit = own.parse_known_args(argv)
    if not re.fullmatch(r"[0-9]+", options.seconds) or int(options.seconds) < 1:
        raise InputError(f"--seconds {options.seconds} is not a number of seconds; give 1 or more")
    cli = _launch(DryCLI, with_run_config(["fit", *of_fit]))
    device = str(cli.trainer.strategy.root_device)
    precision = cast(Precision, cli.trainer.precision)
    report = diagnose(cli.model, cli.datamodule, precision, device, float(options.seconds), ema=cli.ema)
    show(report, as_json=options.json)
