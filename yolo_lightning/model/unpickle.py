"""Reading of ``torch.save`` files without executing anything in them.

A classic checkpoint pickles whole modules (``models.yolo.Model``), and plain unpickling would import and call
any name in the file. Here torch's restricted unpickler gets an inert stand-in for each name on an allow-list,
and tensors are read from the stand-ins. A file with any other name is refused before it is unpickled.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

_ALLOWED = re.compile(
    r"(?:yolov5\.)?models\.[\w.]+"  # modules of the classic code, and of its PyPI package
    r"|ultralytics\.(?:nn|utils|yolo\.utils)\.[\w.]+"  # modules and namespaces of the u models
    r"|torch\.nn\.(?:modules|parallel)\.[\w.]+"
    r"|pathlib\.(?:_local\.)?(?:Pure)?(?:Posix|Windows)?Path"  # save_dir of a training run
    r"|numpy\.(?:_?core\.multiarray\.(?:scalar|_reconstruct)|dtype|ndarray|dtypes\.\w+)"  # best_fitness
    r"|argparse\.Namespace|collections\.defaultdict|datetime\.(?:date|datetime|timedelta)"
)
"""Names in checkpoints besides torch's own tensors and containers. None of them is imported."""


class Inert:
    """Stand-in for classes and functions of a checkpoint: takes any arguments, does nothing."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Inert:
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            vars(self).update(state)


@contextmanager
def _only_these_globals(allowed: list[Any]) -> Iterator[None]:
    """Let the restricted unpickler resolve only ``allowed``, no names that other libraries declared safe."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(allowed)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def read_without_executing(path: Path) -> Any:
    """Content of a ``torch.save`` file, every class in it replaced by an :class:`Inert`.

    Raises:
        InputError: the file asks for a name that is not on the allow-list, or for any class if it has the
            format of torch before 1.6, whose names cannot be listed beforehand; or it is compressed.
    """
    wanted: list[str] = []
    if zipfile.is_zipfile(path):
        if is_bomb(path):
            raise InputError(f"{path}: refused, because it unpacks to more than it has; get it anew")
        with _only_these_globals([]):
            wanted = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    refused = sorted(name for name in wanted if not _ALLOWED.fullmatch(name))
    if refused:
        raise InputError(
            f"{path}: refused, because it asks for {', '.join(refused[:8])}, which no checkpoint of a "
            "detector needs; get it from its official source, or ask for a state dict saved as .safetensors"
        )
    stand_ins = [(type(name.rpartition(".")[2], (Inert,), {}), name) for name in wanted]
    with _only_these_globals(stand_ins):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if not (named := re.search(r"GLOBAL (\S+)", str(error))):
                raise
            raise InputError(
                f"{path}: refused, because it is in the format of before torch 1.6 and asks for {named[1]}; "
                "save its state dict with a recent torch.save or as .safetensors"
            ) from error


def is_bomb(path: Path) -> bool:
    """Tell whether records of an archive are compressed or overlap, which ``torch.save`` never does."""
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
    is_compressed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
    return is_compressed or sum(record.file_size for record in records) > path.stat().st_size


def is_stored(value: Any) -> bool:
    """Tell whether all tensors in a plain value are on the CPU and no larger than what is stored of them.

    A few bytes can describe a tensor that is sparse, on no device, or repeats one number without end.
    """
    waiting, seen = [value], set[int]()
    while waiting:
        part = waiting.pop()
        if isinstance(part, Tensor):
            is_dense = part.layout == torch.strided and part.device.type == "cpu" and not part.is_quantized
            if not is_dense or part.numel() * part.element_size() > part.untyped_storage().nbytes():
                return False
        elif isinstance(part, dict | list | tuple) and id(part) not in seen:
            seen.add(id(part))
            waiting.extend(part.values() if isinstance(part, dict) else part)
    return True


def module_tensors(module: Inert, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers of a pickled module, by name, as ``state_dict`` lists them."""
    fields = vars(module)
    transient = fields.get("_non_persistent_buffers_set", ())
    for group in ("_parameters", "_buffers"):
        for name, value in fields.get(group, {}).items():
            if isinstance(value, Tensor) and name not in transient:
                yield prefix + name, value
    for name, child in fields.get("_modules", {}).items():
        if isinstance(child, Inert):
            yield from module_tensors(child, f"{prefix}{name}.")
