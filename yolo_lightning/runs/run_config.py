"""The ``config.yaml`` of a run, read as data: a run of a stranger runs no code and chooses no directory."""

from __future__ import annotations

import os
import re
import reprlib
from pathlib import Path
from typing import Any, NoReturn

import yaml

from ..errors import InputError
from ..model.architecture import is_self_contained
from .run_files import read_bytes

CONFIG = "config.yaml"
NOT_KEPT = {
    *("config", "ckpt_path", "trust_config", "profile", "weights_only", "verbose", "return_predictions")
}
"""Options that belong to one start, not to the run."""
GROUPS = {
    "": {"trainer", "model", "data", "ddp", "dashboard", "ema"},
    "model.": {"optimizer", "loss", "anchor_free_loss", "augmentation", "evaluation"},
}
"""Options that are mappings. jsonargparse takes text in place of one for the path of a configuration."""
OBJECTS = {"accelerator", "strategy", "logger", "callbacks", "profiler", "plugins"}
"""Options of the Trainer that are words or objects. jsonargparse imports what other text names."""
_CLASSES = re.compile(
    r"lightning\.pytorch\.(?:callbacks|loggers)\.(?:\w+\.)?(?:CSVLogger|TensorBoardLogger|EarlyStopping|"
    r"ModelCheckpoint|Timer|LearningRateMonitor|DeviceStatsMonitor|ModelSummary|TQDMProgressBar)"
)
"""Classes whose arguments are plain values: none is a function, an object or an address in a network."""
_LEADS_OUT = re.compile(r"[/~]|.*(\.\.|://|\\)", re.DOTALL)


def run_options(run: Path, given: list[tuple[str, str]]) -> str:
    """Options of a run's ``config.yaml`` as YAML; of the directories in it only the run's own.

    Options of the Trainer that ``given`` has are left out, and objects of classes that it names: a command
    that is repeated to resume its run makes them again.

    Raises:
        InputError: the file is damaged, or has more than plain values and a few classes of Lightning.
    """
    file = run / CONFIG
    content = _read(file)
    place = content.get("runs_dir"), content.get("run_name") or "fit"
    moved = {"runs_dir", "run_name"} if place != (str(run.parent.parent), run.parent.name) else set()
    content = {key: value for key, value in content.items() if key not in NOT_KEPT | moved}
    if isinstance(trainer := content.get("trainer"), dict):
        words, names = _words(given), {name for name, _ in given} | {"trainer.default_root_dir"}
        content["trainer"] = {
            key: _without(value, words) if key in OBJECTS else value
            for key, value in trainer.items()
            if f"trainer.{key}" not in names
        }
    model = content.get("model")
    if isinstance(model, dict) and not is_self_contained(str(model.get("architecture"))):
        content["model"] = {key: value for key, value in model.items() if key != "architecture"}
    _check_group(file, "", content)
    # No file has so long a name, so jsonargparse takes this for the options, not for their path.
    return "#" * 300 + "\n" + yaml.safe_dump(content, sort_keys=False)


def _read(file: Path) -> dict[Any, Any]:
    try:
        text = (read_bytes(file.parent, file.name) or b"").decode()
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ValueError("it has an alias")  # a few of them stand for more than a memory holds
        return dict(yaml.safe_load(text) or {})
    except (OSError, TypeError, ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{file}: is no configuration of a run ({reason}); restore the file") from error


def _words(given: list[tuple[str, str]]) -> set[str]:
    """Words of the options given, and of the YAML files that they name."""
    texts = [value for _, value in given]
    for path in [os.path.expanduser(text) for text in texts if text.endswith((".yaml", ".yml"))]:
        if os.path.isfile(path):
            texts.append(Path(path).read_text(encoding="utf-8", errors="replace"))
    return set(re.findall(r"\w+", " ".join(texts)))


def _without(value: Any, words: set[str]) -> Any:
    """Leave out objects whose class is among the words."""
    if isinstance(value, list):
        return [one for one in value if _without(one, words) is not None] or None
    module, _, name = str(value.get("class_path") if isinstance(value, dict) else value).rpartition(".")
    return None if module and name in words else value


def _check_group(file: Path, prefix: str, group: dict[Any, Any]) -> None:
    for name, value in group.items():
        key = f"{prefix}{name}"
        is_name = isinstance(name, str) and name.isidentifier() and not name.startswith("_")
        if not is_name or name == "class_path":
            _refuse(file, key, value)  # jsonargparse splits a.b, appends with a+ and reads __path__
        elif name in GROUPS.get(prefix, ()) and isinstance(value, dict):
            _check_group(file, f"{key}.", value)
        elif prefix == "trainer." and name in OBJECTS:
            for one in value if isinstance(value, list) else [value]:
                _check_object(file, key, one)
        elif name in GROUPS.get(prefix, ()) or not _is_plain(value):
            _refuse(file, key, value)


def _check_object(file: Path, key: str, value: Any) -> None:
    if not isinstance(value, dict):  # a word that is also the name of a file is its path to jsonargparse
        is_word = re.fullmatch("[a-z0-9_]+", str(value)) and not os.path.isfile(str(value))
        if not (value is None or isinstance(value, bool) or is_word):
            _refuse(file, key, value)
        return
    kind, arguments = str(value.get("class_path")), value.get("init_args") or {}
    known = _CLASSES.fullmatch(kind) and value.keys() <= {"class_path", "init_args"}
    if not (known and isinstance(arguments, dict)):
        _refuse(file, key, value)
    for name, argument in arguments.items():
        text = str(argument)
        if str(name).endswith(("dir", "dirpath")) and argument is not None:
            is_allowed = Path(text).resolve().is_relative_to(file.parent.resolve())
        else:
            is_allowed = not (isinstance(argument, dict | list) or _LEADS_OUT.match(text))
        if not is_allowed:
            _refuse(file, f"{key}.{kind}.{name}", argument)


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return "class_path" not in value and all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if isinstance(value, list) else True


def _refuse(file: Path, key: str, value: Any) -> NoReturn:
    shown = value.get("class_path", value) if isinstance(value, dict) else value
    shown = repr(shown)[:200] if isinstance(shown, str) else reprlib.repr(shown)
    option = ".".join(key.split(".")[:2])
    raise InputError(
        f"{file}: {key} is {shown}; from a run's configuration only plain values and a few "
        f"classes of Lightning are taken. Give --{option} yourself, or --trust_config if you trust whoever "
        "made this run: its configuration can then run any code"
    )
