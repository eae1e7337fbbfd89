"""``yolo-lightning replay FILE``: run a batch again at which a training diverged."""

from __future__ import annotations

from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..system.text import first_line
from ..training.divergence import Diagnosis, diagnose
from ..training.hyper_parameters import architecture_of, checked_hyper_parameters
from ..training.module import YOLOv5
from ..training.step import Prepared
from .command_parser import CommandParser

_DESCRIPTION = """Runs a batch again that a fit has saved as RUN/divergence/….pt, with the weights of then, in
the precision of then, and prints what was not finite first. It uses a GPU if there is one."""
_AUTOCAST = {"16": torch.float16, "bf": torch.bfloat16}


def run_replay(argv: list[str]) -> Diagnosis | None:
    """Print what the fit said of the batch, and what is found now; return that.

    Raises:
        InputError: the file is missing, or is not one that a fit has saved.
    """
    parser = CommandParser("replay", "FILE", _DESCRIPTION)
    parser.add_argument("file", metavar="FILE", help="a .pt in the folder divergence of a run")
    path = Path(parser.parse_args(argv).file).expanduser()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        contents: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        known = checked_hyper_parameters(contents["hyper_parameters"], path)
        own = {"architecture": architecture_of(known, None, path), "weights": None, "compile": False}
        arguments = {name: known[name] for name in known.keys() & signature(YOLOv5).parameters.keys()}
        module = YOLOv5(**arguments | own)  # no path of the file is opened
        module.configure_model()
        module.to(device).network.load_state_dict(contents["state_dict"])
        module.criterion.image_size_px = contents["image_size"]
        batches = [Prepared(**batch) for batch in contents["batches"]]
        report = "\n  ".join(["the fit:", *contents["report"]])
        kind = _AUTOCAST.get(contents["precision"][:2])
        with torch.autocast(device, kind) if kind else nullcontext():
            diagnosis = diagnose(module.network, module.criterion, batches)
    except InputError:
        raise
    except Exception as error:  # a damaged file can break anywhere
        raise InputError(
            f"{path}: is no batch of a fit ({first_line(error)}); give a file of RUN/divergence"
        ) from None
    print(report)
    print(f"now on {device}: {diagnosis.text if diagnosis else 'everything is finite'}")
    if diagnosis and diagnosis.layer:
        print(f"  first layer that is not finite: {diagnosis.layer}")
    return diagnosis
