"""Run directories: ``<runs_dir>/<name>/version_<k>/``, how one is claimed, and where its checkpoints lie."""

from __future__ import annotations

import re
from pathlib import Path

from .errors import InputError

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
_VERSION = re.compile(r"version_(\d+)")
_SHORTHANDS = ("last", "best")


def claim_run_directory(runs_dir: str | Path, name: str) -> Path:
    """Create the next ``version_<k>`` under ``runs_dir/name``; two processes never get the same one.

    Returns:
        Its absolute path, so that a change of the working directory cannot split a run.

    Raises:
        InputError: the folder cannot be written.
    """
    parent = Path(runs_dir).absolute() / name
    while True:
        version = max((k for k, _ in _versions(parent)), default=-1) + 1
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


def find_checkpoint(ckpt_path: str, runs_dir: str | Path, name: str) -> Path:
    """The file that ``--ckpt_path`` means.

    Args:
        ckpt_path: a path, or ``last`` or ``best`` of the newest run of that name that has one.
        runs_dir: where runs are kept.
        name: name of the run.

    Raises:
        InputError: there is no such checkpoint.
    """
    if ckpt_path not in _SHORTHANDS:
        path = Path(ckpt_path).absolute()
        if not path.is_file():
            raise InputError(
                f"--ckpt_path {ckpt_path}: there is no such file; give a checkpoint of a run, or 'last' or 'best'"
            )
        return path
    parent = Path(runs_dir).absolute() / name
    for _, version in sorted(_versions(parent), reverse=True):
        path = version / CHECKPOINTS / f"{ckpt_path}.ckpt"
        if path.is_file():
            return path
    raise InputError(
        f"--ckpt_path {ckpt_path}: no run in {parent} has a {CHECKPOINTS}/{ckpt_path}.ckpt; "
        "give the path of a checkpoint, or the --runs_dir and --run_name of the run"
    )


def run_directory_of(checkpoint: Path) -> Path | None:
    """The run directory that a checkpoint lies in; None for a checkpoint that was moved out of one."""
    run = checkpoint.parent.parent
    return run if checkpoint.parent.name == CHECKPOINTS and (run / CONFIG).is_file() else None


def _versions(parent: Path) -> list[tuple[int, Path]]:
    if not parent.is_dir():
        return []
    return [(int(match[1]), path) for path in parent.iterdir() if (match := _VERSION.fullmatch(path.name))]
