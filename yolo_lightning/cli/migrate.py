"""``yolo-lightning migrate``: options of a run of yolov5 or ultralytics as a configuration for ``fit``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from ..errors import InputError
from ..model.architecture import is_name
from ..model.blocks import MODEL_FILES
from ..model.weights import identify_architecture, load_weights
from ..system.files import write_whole
from ..system.text import first_line, one_line
from .command_parser import CommandParser
from .migrate_options import EARLIER, HYP, NO_SETTING, TRAIN, ULTRALYTICS, Table, is_set, keep

_DESCRIPTION = """Writes the options of a run of yolov5 or ultralytics as a configuration for fit. Says which
of them have another meaning here, or no counterpart.

  yolo-lightning migrate --opt runs/train/exp/opt.yaml --hyp runs/train/exp/hyp.yaml
  yolo-lightning migrate --opt runs/detect/train/args.yaml --weights runs/detect/train/weights/best.pt"""


@dataclass
class Migration:
    """A configuration in the making."""

    settings: dict[str, tuple[Any, str]] = field(default_factory=dict)
    """Our option, such as ``trainer.max_epochs``, to its value and the name of theirs."""
    remarks: list[str] = field(default_factory=list)
    """Sentences on options that have another meaning here, or no counterpart."""

    def add_options(self, given: Mapping[str, Any], table: Table, defaults: Mapping[str, Any]) -> None:
        """Convert options by a table; of the others those are lost that differ from their defaults."""
        for name, value in given.items():
            if entry := table.get(name):
                key, convert = (entry, keep) if isinstance(entry, str) else entry
                found, remark = convert(key, value, given)
                self.settings |= {key: (ours, name) for key, ours in found.items()}
            else:
                is_lost = name not in NO_SETTING and is_set(value) and value != defaults.get(name)
                remark = "has no counterpart in fit" if is_lost else ""
            if remark:
                self.remarks.append(one_line(f"{name} {value} {remark}"))

    def add_model(self, given: Mapping[str, Any], weights: str | None) -> None:
        """Set architecture and weights, from the user's file or from what the options name.

        Raises:
            InputError: a file is not there, or cannot be read.
        """
        is_u = "task" in given
        weights = weights or str(given.get("model" if is_u else "weights") or "")
        network = "" if is_u else str(given.get("cfg") or "")
        if weights.endswith((".yaml", ".yml")):
            weights, network = "", weights
        if network:
            self.settings["model.architecture"] = (_locate(network, is_u), "cfg")
        if not weights:
            return
        found = _locate(weights, is_u)
        self.settings["model.weights"] = (found, "weights")
        name = found if is_name(found) else identify_architecture(load_weights(found).state_dict)
        if name and not network:
            self.settings["model.architecture"] = (name, "weights")
        elif not network:
            self.remarks.append(f"weights {found} are of a model of its own: set model.architecture")

    def text(self, sources: list[str]) -> str:
        """The configuration as YAML, with comments."""
        tree = Namespace()  # nests names by their dots
        for key, (value, theirs) in self.settings.items():
            name = key.rpartition(".")[2]
            written = yaml.safe_dump([value], default_flow_style=True, width=10_000).strip()[1:-1]
            tree[key] = written if name == theirs else f"{written}  # {theirs}"
        head = [f"Made by yolo-lightning migrate from {' and '.join(sources)}.", *self.remarks]
        return "\n".join([*(f"# {line}" for line in head), *_nested(tree.as_dict()), ""])


def _nested(tree: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from _nested(value, f"{indent}  ")
        else:
            yield f"{indent}{name}: {value}"


def _locate(named: str, is_u: bool) -> str:
    """The path of a file, or the official model that is meant; ultralytics builds a u model for each name."""
    if Path(named).is_file():
        return str(Path(named).absolute())
    stem = Path(named).stem.removesuffix("u") + "u" if is_u else Path(named).stem
    if is_name(stem):
        return stem
    raise InputError(
        f"{named}: is neither a file that is found from this folder nor an official YOLOv5; give the best.pt "
        "of the run as --weights"
    )


def run_migrate(argv: list[str]) -> None:
    """Write a configuration for ``fit``, with the arguments of a command line.

    Raises:
        InputError: a file cannot be read, is of another kind, or exists already.
        SystemExit: ``--help``.
    """
    parser = CommandParser("migrate", "[--opt FILE] [--hyp FILE] [options]", _DESCRIPTION)
    parser.add_argument("--opt", metavar="FILE", help="opt.yaml of yolov5, or args.yaml of ultralytics")
    parser.add_argument("--hyp", metavar="FILE", help="hyp.yaml of yolov5 (default: the values in opt.yaml)")
    parser.add_argument("--weights", metavar="FILE", help="initial weights (default: those of opt.yaml)")
    parser.add_argument("--output", default="config.yaml", metavar="FILE", help="default: config.yaml")
    options = parser.parse_args(argv)
    if Path(options.output).exists():
        raise InputError(f"{options.output}: exists already; give another file as --output, or remove it")
    given = _read(options.opt, {"batch_size", "task"}) if options.opt else {}
    if given.get("task", "detect") != "detect":
        raise InputError(f"{options.opt}: is of the task {given['task']}; only detectors are trained here")
    hyp = _read(options.hyp, {"lr0"}) if options.hyp else given.get("hyp") or {}
    if not given and not hyp:
        raise InputError("give --opt with an opt.yaml or args.yaml, --hyp with a hyp.yaml, or both")
    migration = Migration()
    migration.add_model(given, options.weights)
    if "task" in given:
        defaults = _read(str(MODEL_FILES.parents[1] / "default.yaml"), {"task"})
        migration.add_options(given, ULTRALYTICS, defaults)
    else:
        migration.add_options(given, TRAIN | EARLIER, {})
    if isinstance(hyp, dict):
        migration.add_options(hyp, HYP, {})
    else:
        migration.remarks.append(f"hyp {hyp} is another file: give it as --hyp")
    try:
        write_whole(Path(options.output), migration.text(list(filter(None, (options.opt, options.hyp)))))
    except OSError as error:
        raise InputError(f"{options.output}: cannot be written ({error.strerror}); give another") from None
    for remark in migration.remarks:
        print(remark, file=sys.stderr)
    needed = "" if "data.root" in migration.settings else " --data.root DIR"
    print(f"{options.output} has {len(migration.settings)} options, and as comments the names of theirs.")
    print(f"Train with: yolo-lightning fit --config {options.output}{needed}")


def _read(path: str, known_by: set[str]) -> dict[str, Any]:
    """The options of a YAML file that has one of some keys.

    Raises:
        InputError: it cannot be read, or is of another kind.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, OverflowError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)}); give another file") from None
    if not isinstance(content, dict) or not known_by & content.keys():
        raise InputError(
            f"{path}: has no {' or '.join(sorted(known_by))}; give an opt.yaml or args.yaml as --opt, and a "
            "hyp.yaml as --hyp"
        )
    return content
