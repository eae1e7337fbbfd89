"""The front door: ``fit``, ``validate``, ``test``, ``predict`` (LightningCLI) and the other commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jsonargparse import auto_cli, set_parsing_settings

from .callbacks.save_config import SaveConfig
from .commands.synth import synth
from .data.cores import limit_threads
from .data.module import DetectionDataModule
from .launcher import TRAINER_DEFAULTS, YoloCLI
from .module import YOLOv5
from .parser import Parser, quieten
from .runs import with_run_config

COMMANDS: dict[str, Callable[..., Any]] = {"synth": synth}
"""What the command line can do besides Lightning's own subcommands."""

_DESCRIPTION = (
    "Train YOLOv5 on your own images. Another command, 'synth', makes a small data set to try it on: "
    "yolo-lightning synth --help"
)


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
    command = argv[0] if argv else "--help"
    if command in COMMANDS:
        auto_cli(
            COMMANDS[command],
            args=argv[1:],
            as_positional=False,
            prog=f"yolo-lightning {command}",
            parser_class=Parser,
        )
    else:
        _launch(YoloCLI, with_run_config(argv or ["--help"]))


def _launch(cli: type[YoloCLI], args: list[str]) -> YoloCLI:
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
