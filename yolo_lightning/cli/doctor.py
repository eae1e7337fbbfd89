"""``yolo-lightning doctor``: measures a training on the user's data and machine, and says what to change."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from typing import cast

import torch

from ..data.module import DetectionDataModule
from ..errors import InputError
from ..performance.doctor.examination import Examination
from ..performance.doctor.report import Report
from ..runs.directory import with_run_config
from ..training.ema import ExponentialMovingAverage
from ..training.module import YOLOv5
from ..training.precision import Precision, default_precision
from .command_parser import CommandParser
from .launcher import DryCLI, launch

_DESCRIPTION = """Measures in about a minute, on your own data and machine, what a fit with these options
would wait for: the loader, the training step in each form, the copy to the device, and all together. Says
which of them is the bottleneck, which options to change, and how long an epoch takes now and then. Nothing
is trained."""
_EPILOG = "The other options are those of fit; see: yolo-lightning fit --help"


def diagnose(
    module: YOLOv5,
    datamodule: DetectionDataModule,
    precision: Precision | None,
    device: str,
    seconds: float = 60.0,
    *,
    ema: ExponentialMovingAverage | None = None,
    announce: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> Report:
    """Measure loader, step, copy, and loader and step together, as configured and as seems better.

    The step is the real one: a Trainer trains copies of the module for a few batches. The user's module is
    not changed, and no cache is built.

    Args:
        module: module as for ``fit``.
        datamodule: data module as for ``fit``.
        precision: as ``trainer.precision``; None follows the rule of ``fit``.
        device: device of the training: cpu, cuda, cuda:1.
        seconds: duration, about; compiling comes on top.
        ema: averaging of the weights; that of ``fit`` by default if left out.
        announce: called with a line before each measurement.

    Raises:
        InputError: the data or an option is wrong.
    """
    datamodule.build_indices("fit")
    precision = precision or default_precision(device)[0]
    ema = ema or ExponentialMovingAverage()
    return Examination(module, datamodule, precision, torch.device(device), ema, announce, seconds).run()


def run_doctor(argv: list[str]) -> None:
    """:func:`diagnose` with the arguments of a command line.

    Args:
        argv: own options, and options of ``fit``.

    Raises:
        InputError: an option or the data is wrong.
        SystemExit: ``--help``.
    """
    parser = CommandParser("doctor", "[--json] [--seconds N] [options of fit]", _DESCRIPTION, _EPILOG)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--seconds", default="60", metavar="N",
        help="about how long it may take, without compiling (default: 60); on a CPU 300 compiles the network",
    )  # fmt: skip
    options, of_fit = parser.parse_known_args(argv)
    if not re.fullmatch(r"0*[1-9][0-9]*", options.seconds):
        raise InputError(f"--seconds {options.seconds} is not a number of seconds; give 1 or more")
    cli = launch(DryCLI, with_run_config(["fit", *of_fit]))
    device = str(cli.trainer.strategy.root_device)
    precision = cast(Precision, cli.trainer.precision)
    ema = cli.config_init["fit"].ema
    report = diagnose(cli.model, cli.datamodule, precision, device, float(options.seconds), ema=ema)
    print(json.dumps(report.as_json(), indent=1) if options.json else report)
