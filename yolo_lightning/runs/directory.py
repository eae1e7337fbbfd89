"""Run directories ``<runs_dir>/<name>/version_<k>/``: how one is claimed, its checkpoints and its metrics."""

from __future__ import annotations

import csv
import io
import os
import re
import statistics
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path

import yaml

from ..data.image_size import SizeOption
from ..errors import InputError
from ..model.weights import identify_architecture, load_weights
from ..system.text import one_line
from .checkpoint_files import previous_path
from .checkpoint_format import read_resumption
from .run_config import CONFIG, run_options
from .run_files import read_bytes

METRICS = "metrics.csv"
CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"
DEFAULT_NAME = "fit"  # whose last and best are meant where no name is given
_VERSION = re.compile(r"version_(\d+)")
AUTO = "auto"
"""``--ckpt_path``: the newest checkpoint of the run of that name if it has one, else a start from nothing."""


def claim_run_directory(runs_dir: str | Path, name: str) -> Path:
    """Create the next ``version_<k>`` under ``runs_dir/name``; two processes never get the same one.

    The path is absolute, so that a change of the working directory cannot split a run.

    Raises:
        InputError: the folder cannot be written.
    """
    parent = Path(runs_dir).expanduser().absolute() / name
    while True:
        version = max((k for k, _ in versions(parent)), default=-1) + 1
        path = parent / f"version_{version}"
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            if not path.is_dir():
                raise InputError(f"{path}: is a file; move it away or set --runs_dir or --run_name") from None
        except OSError as error:
            raise InputError(
                f"{path}: cannot be created ({error.strerror}); set --runs_dir to a writable folder"
            ) from error


def find_checkpoint(ckpt_path: str, runs_dir: str | Path, name: str) -> Path | None:
    """The file that ``--ckpt_path`` means; it, or the one kept from before it, is there.

    ``ckpt_path`` is a path, ``last`` or ``best`` of the newest run of that name that has one, or ``auto``,
    which gives None if there is none.

    Raises:
        InputError: there is no such checkpoint.
    """

    def is_kept(checkpoint: Path) -> bool:
        return checkpoint.is_file() or previous_path(checkpoint).is_file()

    if ckpt_path not in ("last", "best", AUTO):
        path = Path(ckpt_path).expanduser().absolute()
        if not is_kept(path):
            raise InputError(
                f"--ckpt_path {ckpt_path}: no such file; give a run's checkpoint, or 'last' or 'best'"
            )
        return path
    parent = Path(runs_dir).expanduser().absolute() / name
    for _, version in sorted(versions(parent), reverse=True):
        path = version / CHECKPOINTS / (LAST if ckpt_path == AUTO else f"{ckpt_path}.ckpt")
        if is_kept(path):
            return path
    if ckpt_path == AUTO:
        return None
    raise InputError(
        f"--ckpt_path {ckpt_path}: no run in {parent} has a {CHECKPOINTS}/{ckpt_path}.ckpt; "
        "give the path of a checkpoint, or the --runs_dir and --run_name of the run"
    )


def begun_run_directory(runs_dir: str | Path, name: str) -> Path | None:
    """The directory of the newest run of that name, if it was stopped before its first checkpoint."""
    _, newest = max(versions(Path(runs_dir).expanduser().absolute() / name), default=(0, None))
    return newest if newest and not any((newest / CHECKPOINTS).glob("*.ckpt")) else None


def run_directory_of(checkpoint: Path) -> Path | None:
    """The run directory that a checkpoint lies in; None for a checkpoint that was moved out of one."""
    run = checkpoint.parent.parent
    return run if checkpoint.parent.name == CHECKPOINTS and (run / CONFIG).is_file() else None


def _with_options(argv: list[str], **known: SizeOption | str | None) -> list[str]:
    """A command whose own options still count, after what is known of a model (``data__image_size``)."""
    own = [f"--{name.replace('__', '.')}={value}" for name, value in known.items() if value]
    return [argv[0], *own, *argv[1:]]


def _with_facts_of_weights(argv: list[str], path: Path) -> list[str]:
    """A command that trains nothing, with the architecture of weights, and for ``predict`` their size."""
    found = load_weights(path)
    architecture = found.architecture or identify_architecture(found.state_dict)
    size = found.image_size if argv[0] == "predict" else None
    return _with_options(argv, model__architecture=architecture, data__image_size=size)


def with_run_config(argv: list[str], find_weights: Callable[[str], Path] = Path) -> list[str]:
    """Put the configuration of the checkpoint's run between the subcommand and the options given.

    So ``fit --ckpt_path last`` and ``validate --ckpt_path RUN/checkpoints/best.ckpt`` need no other
    option, and each option that is given still counts. Of a checkpoint that was moved out of its run, and of
    weights for ``predict``, the image size is taken, and of weights that are not trained the architecture.
    Without ``--trust_config`` that configuration is data, see :func:`run_options`.

    Args:
        argv: a subcommand and its options.
        find_weights: the file that ``--model.weights`` means.

    Raises:
        InputError: there is no such checkpoint, or its run's configuration is refused.
    """
    given: dict[str, str] = {}
    options = [*_option_values(argv[1:])]
    for name, value in options:
        given |= _options_of_config(value) if name in {"config", "c"} else {name: value}
    given = {name: value for name, value in given.items() if value != "null"}
    if "ckpt_path" not in given:
        if argv[0] not in ("validate", "test", "predict") or "model.weights" not in given:
            return argv
        return _with_facts_of_weights(argv, find_weights(given["model.weights"]).expanduser())
    name = given.get("run_name", DEFAULT_NAME)
    checkpoint = find_checkpoint(given["ckpt_path"], given.get("runs_dir", "runs"), name)
    run = run_directory_of(checkpoint) if checkpoint else None
    if run is None:
        if argv[0] == "fit" or checkpoint is None:
            return argv
        known = read_resumption(checkpoint).hyper_parameters
        return _with_options(argv, data__image_size=known.get("image_size"))
    own: list[str] = []
    if argv[0] == "predict":
        own.append("--trainer.precision=null")  # that of this machine, not of the one that has trained
    if argv[0] != "fit":
        own.append("--run_name=null")  # what is not training gets a directory under a name of its own
        if not any(os.environ.get(name) for name in ("WORLD_SIZE", "SLURM_STEP_ID")):  # and waits for nobody
            own += ["--trainer.num_nodes=1", "--trainer.devices=1"]
    trusted = given.get("trust_config", "no").lower()  # the option before, if it stands alone
    is_trusted = trusted in {"", "true", "yes"} or trusted.startswith("-")
    if argv[0] == "fit" and not is_trusted and checkpoint and checkpoint.parent.is_symlink():
        raise InputError(
            f"{checkpoint.parent}: is a link to {checkpoint.parent.resolve()}, where a run that resumes "
            "replaces files; put the folder itself into the run, or give --trust_config if the run is yours"
        )
    config = str(run / CONFIG) if is_trusted else run_options(run, options)
    return [argv[0], "--config", config, *own, *argv[1:]]


def _option_values(argv: list[str]) -> Iterator[tuple[str, str]]:
    for argument, following in zip_longest(argv, argv[1:], fillvalue=""):
        if argument.startswith("-"):
            name, equals, value = argument.lstrip("-").partition("=")
            yield name, value if equals else following


def _options_of_config(path: str) -> dict[str, str]:
    """Run and weights that a configuration names; the parser reports what is wrong with it."""
    try:
        content = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, OverflowError, yaml.YAMLError):
        return {}
    found = content if isinstance(content, dict) else {}
    if {"lr0", "imgsz"} & found.keys():
        option = "--opt" if "imgsz" in found else "--hyp"
        raise InputError(
            f"{path}: has options of yolov5 or ultralytics; convert it with 'yolo-lightning migrate {option} "
            f"{path}', and give --config config.yaml"
        )
    model = found.get("model")
    named = {key: found.get(key) for key in ("ckpt_path", "run_name", "runs_dir")}
    named["model.weights"] = model.get("weights") if isinstance(model, dict) else None
    return {key: str(value) for key, value in named.items() if value}


def versions(parent: Path) -> list[tuple[int, Path]]:
    """Number and directory of each ``version_<k>`` in a folder, in any order; none without the folder."""
    if not parent.is_dir():
        return []
    return [(int(match[1]), path) for path in parent.iterdir() if (match := _VERSION.fullmatch(path.name))]


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a ``metrics.csv``, one an epoch; none when there is no file.

    Raises:
        InputError: it cannot be read, or is no table of numbers with an epoch in each row.
    """
    contents = read_bytes(path.parent, path.name)
    try:
        table = csv.DictReader(io.StringIO((contents or b"").decode(), newline=""))
        rows = [{name: float(text) for name, text in row.items() if text} for row in table]
        if all(0 <= row.get("epoch", -1) < 2**31 and 0 <= row.get("step", 0) < 2**63 for row in rows):
            return rows
        problem = "holds no epoch in a row"
    except (TypeError, ValueError, csv.Error) as error:
        problem = f"cannot be read as a table of metrics ({one_line(str(error))})"
    raise InputError(f"{path}: {problem}; give a run whose file is whole")


def images_per_second(rows: list[dict[str, float]]) -> float | None:
    """The median over the epochs."""
    speeds = [row["perf/images_per_second"] for row in rows if "perf/images_per_second" in row]
    return statistics.median(speeds) if speeds else None
