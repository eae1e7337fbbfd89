"""Search space of ``yolo-lightning tune``: options of fit, each with the values that a trial may take."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..errors import InputError
from ..model.architecture import read_architecture

if TYPE_CHECKING:
    from optuna import Trial

_RANGES: dict[str, dict[str, list[Any]]] = {
    "optimizer": {
        "learning_rate": [1e-5, 0.1, "log"], "final_learning_rate_fraction": [0.01, 1.0],
        "momentum": [0.6, 0.98], "weight_decay": [0.0, 0.001], "warmup_epochs": [0.0, 5.0],
        "warmup_momentum": [0.0, 0.95], "warmup_bias_learning_rate": [0.0, 0.2],
    },
    "loss": {
        "box_gain": [0.02, 0.2], "class_gain": [0.2, 4.0], "objectness_gain": [0.2, 4.0],
        "anchor_threshold": [2.0, 8.0],
    },
    "anchor_free_loss": {"box_gain": [1.0, 20.0], "class_gain": [0.1, 4.0], "dfl_gain": [0.4, 6.0]},
    "augmentation": {
        "hsv_h": [0.0, 0.1], "hsv_s": [0.0, 0.9], "hsv_v": [0.0, 0.9], "degrees": [0.0, 45.0],
        "translate": [0.0, 0.9], "scale": [0.0, 0.9], "shear": [0.0, 10.0], "perspective": [0.0, 0.001],
        "flip_up_down": [0.0, 1.0], "flip_left_right": [0.0, 1.0], "mosaic": [0.0, 1.0], "mixup": [0.0, 1.0],
    },
}  # fmt: skip
"""Ranges of ``--evolve`` in ultralytics/yolov5 v7.0, and of ultralytics' tuner for the anchor-free loss."""
_EXAMPLE = "'model.optimizer.momentum: [0.8, 0.98]', '… [1e-4, 0.1, log]' or '… {choices: [sgd, adamw]}'"


@dataclass(frozen=True)
class Values:
    """Values of one option: choices or a range, with the one to start from among them."""

    start: Any
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    """The logarithm is drawn evenly."""

    def suggest(self, name: str, trial: Trial) -> Any:
        """The value that a trial tries; a whole number if the search starts from one."""
        if self.choices:
            return trial.suggest_categorical(name, self.choices)
        if isinstance(self.start, int):
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


def search_space(config: Any, file: str | None) -> dict[str, Values]:
    """Values to try, by the name of the option.

    Args:
        config: options of ``fit``, from which the search starts; ranges are widened to hold them.
        file: YAML file with ranges of the user; None for the classic ones.

    Raises:
        InputError: the file cannot be read, or has an option or a range that does not exist.
    """
    ranges = _read(file) if file else _classic(config.model.architecture)
    return {name: _values(config, name, given) for name, given in ranges.items()}


def _classic(architecture: str) -> dict[Any, Any]:
    is_anchor_free = read_architecture(architecture)[1] is None
    unused = "loss" if is_anchor_free else "anchor_free_loss"
    return {
        f"model.{group}.{name}": given
        for group, ranges in _RANGES.items() if group != unused
        for name, given in ranges.items()
    }  # fmt: skip


def _read(file: str) -> dict[Any, Any]:
    try:
        content = yaml.safe_load(Path(file).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, OverflowError, yaml.YAMLError) as error:
        raise InputError(f"--space {file}: cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict) or not content:
        raise InputError(f"--space {file}: has no options; write lines such as {_EXAMPLE}")
    return content


def _values(config: Any, name: Any, given: Any) -> Values:
    if not isinstance(name, str) or name not in config:
        near = difflib.get_close_matches(str(name), config.keys(), n=1)
        hint = f"; did you mean {near[0]}?" if near else "; see yolo-lightning fit --help"
        raise InputError(f"--space: {name} is no option of fit{hint}")
    start = config[name]
    if isinstance(given, dict) and isinstance(given.get("choices"), list):
        return Values(
            start, tuple(given["choices"] if start in given["choices"] else [start, *given["choices"]])
        )
    try:
        low, high = map(float, given[:2])
        log = given[2:] == ["log"]
        if not (log or len(given) == 2) or not low < high or (log and low <= 0):
            raise ValueError
    except (TypeError, ValueError, KeyError):
        raise InputError(f"--space: {name} is {given}; write lines such as {_EXAMPLE}") from None
    if isinstance(start, bool) or not isinstance(start, int | float) or (log and start <= 0):
        raise InputError(f"--space: {name} is {start} without the search, in no range; give it as choices")
    return Values(start, (), min(low, start), max(high, start), log)
