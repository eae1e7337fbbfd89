"""The arguments of YOLOv5 in a checkpoint, checked before anything is made of them."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import Any

from ..errors import InputError
from ..model.architecture import is_self_contained

_MOST_CLASSES = 100_000
_LONGEST_NAME = 1000
_LARGEST_IMAGE_PX = 16_384


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 < value <= _LARGEST_IMAGE_PX


_RULES: dict[str, Callable[[Any], bool]] = {
    "architecture": lambda value: isinstance(value, str),
    "num_classes": lambda value: value is None or (type(value) is int and 0 < value <= _MOST_CLASSES),
    "class_names": lambda value: (
        value is None
        or (isinstance(value, list) and all(isinstance(n, str) and len(n) <= _LONGEST_NAME for n in value))
    ),
    "category_ids": lambda value: (
        value is None or (isinstance(value, list) and all(type(n) is int for n in value))
    ),
    "channels_last": lambda value: isinstance(value, bool),
    "image_size": lambda value: (
        _is_side(value) or (isinstance(value, list) and len(value) == 2 and all(map(_is_side, value)))
    ),
    "batch_size": lambda value: value is None or (type(value) is int and value > 0),
    "seed": lambda value: type(value) is int,
    "score_thresholds": lambda value: isinstance(value, list) and all(type(v) is float for v in value),
    "freeze": lambda value: (
        type(value) is int or (isinstance(value, list) and all(type(one) in (int, str) for one in value))
    ),
}
NO_THRESHOLDS = (
    "score_threshold is auto, but the checkpoint has no thresholds of its classes; give a number, or the "
    "checkpoint of a run whose validation had labels"
)


def checked_hyper_parameters(values: Any, where: object) -> dict[str, Any]:
    """Return the hyper-parameters of a checkpoint; ``where`` is its path, for the message.

    Raises:
        InputError: one of them is of another kind, or names a class to import.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: hyper_parameters is {reprlib.repr(values)}; give another checkpoint")
    for name, value in values.items():
        is_right = _RULES.get(name, lambda _: True)
        if not isinstance(name, str) or name.startswith("_") or not is_right(value):
            raise InputError(
                f"{where}: hyper_parameters.{name} is {reprlib.repr(value)}, which no training writes; "
                "give another checkpoint, or start from its weights with --model.weights"
            )
    return values


def architecture_of(known: dict[str, Any], given: str | None, where: object) -> str:
    """Return the architecture in a checkpoint's hyper-parameters; ``given`` if the checkpoint has a path.

    Raises:
        InputError: an old checkpoint has the path of a YAML, and none is given.
    """
    architecture = str(known.get("architecture"))
    if is_self_contained(architecture):
        return architecture
    if given is None:
        raise InputError(
            f"{where}: names the model file {reprlib.repr(architecture)}, and a path in a checkpoint is not "
            "opened; give --model.architecture FILE with the YAML that it was trained with"
        )
    return given
