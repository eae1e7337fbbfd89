"""The command line: dispatches to LightningCLI's subcommands and to our own commands."""

from __future__ import annotations

import difflib
import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jsonargparse import set_parsing_settings

from ..errors import InputError
from ..runs.directory import with_run_config
from ..system.cores import limit_threads
from ..system.memory import keep_freed_memory
from .command_parser import SUBCOMMANDS

_HELP = """usage: yolo-lightning COMMAND [options]

Train YOLOv5 on your own images. Each command has a --help of its own.

data
  synth      make a small data set to try everything on
  check      find what is wrong in a data set
  convert    write a data set as COCO or YOLO
  audit      find labels that are probably wrong

models
  fit        train a model
  tune       search hyper-parameters
  validate   evaluate a checkpoint on the validation split
  test       evaluate a checkpoint on the test split
  predict    detect objects in images and videos
  export     write a model in other formats
  benchmark  time models of any format side by side
  migrate    turn options of yolov5 and ultralytics into a configuration

runs
  doctor     measure what a fit would wait for
  plan       say what a fit takes on a GPU that is not here
  submit     hand a fit to Slurm
  report     write the page of a run again
  compare    put runs side by side
  visualize  draw what the layers of a network see
  replay     run the batch again at which a training diverged"""
_FILES = "synth audit check convert doctor plan export benchmark tune submit migrate replay report visualize"
COMMANDS = {name: name for name in _FILES.split()} | {"compare": "report"}
"""File of each of our own commands, whose ``run_COMMAND`` is given the arguments."""


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


def prepare_process() -> None:
    """Set what holds for the whole process: messages, parsing, precision of products, threads and memory."""
    quieten()
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    torch.set_float32_matmul_precision("high")  # TF32 where a GPU has it; nothing on a CPU
    limit_threads()
    keep_freed_memory()


@contextmanager
def as_call(name: str) -> Iterator[None]:
    """Run a command within a program: a wrong option raises instead of ending the process.

    Raises:
        InputError: an option is wrong.
    """
    prepare_process()
    try:
        yield
    except SystemExit as end:
        if end.code != 2:
            raise
        raise InputError(f"an option of {name} is wrong; the line above says which") from None


def as_text(name: str, value: Any) -> str:
    """The value of an option as the command line takes it.

    Raises:
        InputError: it is no plain value.
    """
    if isinstance(value, str | Path):
        return str(value)
    try:
        return json.dumps(value)
    except TypeError:
        raise InputError(
            f"{name} is {value!r}; give plain values, or combine the parts in a Trainer of your own, see "
            "docs/api.md"
        ) from None


def run(argv: list[str]) -> None:
    """Run a command, given with its arguments and without the program's name.

    Raises:
        InputError: wrong input.
        SystemExit: wrong options (status 2) or ``--help`` of a command.
    """
    prepare_process()
    command = argv[0] if argv else "--help"
    if command in ("-h", "--help"):
        print(_HELP)
    elif command == "fit" and any(re.fullmatch("--seeds(=.*)?", option) for option in argv):
        import_module(".seeds", __package__).fit_seeds(argv[1:])
    elif command in COMMANDS:
        # Only this command's file is imported: all of them together take a second and a half.
        getattr(import_module(f".{COMMANDS[command]}", __package__), f"run_{command}")(argv[1:])
    elif command in SUBCOMMANDS or command.startswith("-"):
        from ..inference.official_weights import weights_file
        from .launcher import YoloCLI, launch

        launch(YoloCLI, with_run_config(argv, weights_file))
    else:
        near = difflib.get_close_matches(command, [*SUBCOMMANDS, *COMMANDS], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"there is no command {command!r}{hint} (see yolo-lightning --help)")
