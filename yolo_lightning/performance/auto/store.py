"""What was measured of training steps on this machine, kept from one run to the next."""

from __future__ import annotations

import datetime
import json
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...system.cores import usable_cores
from ..doctor.candidates import StepShape, StepTime

_FORMAT = 1  # a change of what is measured must change this, or old figures would be compared with new ones


class Measured(NamedTuple):
    """A stored result."""

    time: StepTime
    date: str
    """Of the measurement, YYYY-MM-DD."""


class Store:
    """A JSON file with the results of each machine and shape of a step.

    Args:
        path: the file; that of the user if left out.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or default_path()

    def read(self, shape: StepShape) -> list[Measured]:
        """All that is known about a shape; nothing, with a warning, if the file is damaged."""
        try:
            return [
                Measured(StepTime.from_json(entry["time"]), str(entry["date"]))
                for entry in self._entries().get(key(shape), [])
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self._warn(error)
            return []

    def add(self, shape: StepShape, times: Sequence[StepTime]) -> list[Measured]:
        """Keep new results, in place of older ones of the same candidates; returns all of the shape."""
        today = datetime.date.today().isoformat()
        new = {time.candidate for time in times}
        kept = [old for old in self.read(shape) if old.time.candidate not in new]
        entries = self._entries()
        results = [*kept, *(Measured(time, today) for time in times)]
        entries[key(shape)] = [{"date": each.date, "time": each.time.as_json()} for each in results]
        try:
            self._write({"format": _FORMAT, "shapes": entries})
        except OSError as error:
            warnings.warn(f"{self.path}: what was measured cannot be kept ({error.strerror})", stacklevel=2)
        return results

    def _entries(self) -> dict[str, Any]:
        try:
            contents = json.loads(self.path.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError) as error:
            self._warn(error)
            return {}
        if not isinstance(contents, dict) or not isinstance(contents.get("shapes"), dict):
            self._warn(ValueError("it has no shapes"))
            return {}
        return contents["shapes"] if contents.get("format") == _FORMAT else {}

    def _write(self, contents: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=self.path.name)
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(contents, file, indent=1)
            os.replace(name, self.path)
        except BaseException:
            os.unlink(name)
            raise

    def _warn(self, error: Exception) -> None:
        warnings.warn(
            f"{self.path}: is damaged and is ignored ({type(error).__name__}: {error}); remove it, or let "
            "new measurements replace it",
            stacklevel=3,
        )


def default_path() -> Path:
    """The file of the user who runs this: choices.json in the cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "yolo_lightning" / "choices.json"


def key(shape: StepShape) -> str:
    """What results hold for: device, torch, cores, and the shape without what leaves the time as it is."""
    network = f"{shape.architecture} {shape.num_classes} classes"
    batch = f"{shape.batch_size} x {shape.image_size} px, {shape.label_rows} labels"
    return f"{machine(shape.device)} | {network} | {batch}"


def machine(device: str) -> str:
    """The name of a device, with what else decides how fast it is."""
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name(device)} | torch {torch.__version__}"
    count = f"{usable_cores()} cores, {torch.get_num_threads()} threads"
    return f"{cpu_facts().get('model name', 'CPU')} | {count} | torch {torch.__version__}"


def cpu_facts(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """What Linux says of the first core: ``model name``, ``flags`` (x86) or ``Features`` (ARM), ...

    Empty elsewhere.
    """
    try:
        block = path.read_text().split("\n\n", 1)[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in block.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}
