"""Official weights by name: fetched once into the user's cache folder, and checked."""

from __future__ import annotations

import os
import zipfile
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console
from rich.progress import DownloadColumn, Progress

from ..data.cache_folder import disk_folder, lock_folder
from ..errors import InputError
from ..model.architecture import is_name
from ..model.network import build_network
from ..model.weights import identify_architecture, load_weights

ADDRESSES = {
    "classic": "https://github.com/ultralytics/yolov5/releases/download/v7.0",
    "u": "https://github.com/ultralytics/assets/releases/download/v8.4.0",
}
"""Folder of the files by kind of model, as the current releases of yolov5 and ultralytics name it."""
_SILENCE_S = 30.0
"""Longest wait for the next bytes of a server, in s."""


def weights_file(weights: str | Path) -> Path:
    """The file that is meant by a path, or by the name of official weights, which are fetched.

    Raises:
        InputError: see :func:`fetch_official_weights`.
    """
    return fetch_official_weights(str(weights)) if is_name(str(weights)) else Path(weights).expanduser()


def fetch_official_weights(name: str) -> Path:
    """Find the official weights of a model, and fetch them if this user does not have them yet.

    Processes that ask at the same time wait for the one that fetches. A download that ends early is resumed
    by the next call.

    Args:
        name: a name for which ``is_name`` is true: ``yolov5s``, ``yolov5n6``, ``yolov5su``.

    Returns:
        The file, ``weights/NAME.pt`` in the folder of ``disk_folder``.

    Raises:
        InputError: the file cannot be fetched or kept, or is not what the name says.
    """
    address = f"{ADDRESSES['u' if name.endswith('u') else 'classic']}/{name}.pt"
    folder = disk_folder(None) / "weights"
    path, part = folder / f"{name}.pt", folder / f"{name}.pt.part"
    if not path.is_file():
        with lock_folder(folder, f"{name}.lock"):
            if not path.is_file():  # another process may have fetched it meanwhile
                _download(address, part, path)
                _refuse_another_file(name, address, part)
                os.replace(part, path)
                rank_zero_info(f"{name}: official weights of {address}, kept as {path}")
    return path


def _download(address: str, part: Path, path: Path) -> None:
    """Write the file at an address to ``part``, or the rest of it if ``part`` has its beginning."""
    held = part.stat().st_size if part.exists() else 0
    request = Request(address, headers={"Range": f"bytes={held}-"} if held else {})
    try:
        with urlopen(request, timeout=_SILENCE_S) as answer:
            held = held if answer.status == 206 else 0  # a server may ignore the range and send all
            length = answer.headers.get("Content-Length")
            total = held + int(length) if length else None
            columns = (*Progress.get_default_columns(), DownloadColumn())
            with (
                part.open("ab" if held else "wb") as file,
                Progress(*columns, console=Console(stderr=True)) as bar,
            ):
                task = bar.add_task(path.name, total=total, completed=held)
                while chunk := answer.read(1 << 18):
                    file.write(chunk)
                    bar.advance(task, len(chunk))
        if total and part.stat().st_size < total:
            raise ConnectionError(f"the connection ended after {part.stat().st_size:,} of {total:,} bytes")
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError) and error.code == 416:  # nothing is left to fetch
            return
        raise InputError(
            f"{address}: cannot be fetched ({str(error).strip('<>')}); start again to resume, or fetch it "
            f"elsewhere and save it as {path}"
        ) from error


def _refuse_another_file(name: str, address: str, part: Path) -> None:
    """Compare checksums, the architecture and the shape of each parameter; remove a wrong file."""
    try:
        with zipfile.ZipFile(part) as archive:
            if archive.testzip():
                raise InputError("a checksum is wrong")
        state = load_weights(part).state_dict
        with torch.device("meta"):
            wanted = dict(build_network(name, 80).named_parameters())
        if identify_architecture(state) != name or any(
            key not in state or state[key].shape != value.shape for key, value in wanted.items()
        ):
            raise InputError("it is of another model")
    except (InputError, OSError, zipfile.BadZipFile) as error:
        part.unlink(missing_ok=True)
        raise InputError(
            f"{address}: what was fetched is not {name} ({error}), and was removed; start again, or give a "
            "file as model.weights"
        ) from error
