from __future__ import annotations

import builtins
import os
import pickle
import subprocess
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from yolo_lightning.errors import InputError
from yolo_lightning.model.unpickle import Inert, module_tensors, read_without_executing
from yolo_lightning.model.weights import load_weights


class Calls:
    """Pickles into a call of ``function`` with ``arguments``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


def attacks(marker: Path) -> dict[str, Calls]:
    touch = f"touch {marker}"
    return {
        "posix.system": Calls(os.system, touch),
        "builtins.eval": Calls(builtins.eval, f"open({str(marker)!r}, 'w')"),
        "builtins.exec": Calls(builtins.exec, f"open({str(marker)!r}, 'w')"),
        "builtins.getattr": Calls(builtins.getattr, "abc", "upper"),
        "commands.Popen": Calls(  # what protocol 2 calls the module subprocess
            subprocess.Popen, ["touch", str(marker)]
        ),
        "torch.hub.load": Calls(torch.hub.load, "nobody/nothing"),
        f"{np.load.__module__}.load": Calls(np.load, str(marker)),
    }


@pytest.mark.parametrize("name", list(attacks(Path())))
def test_a_file_that_asks_for_another_global_is_refused_by_name(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "it_ran"
    path = tmp_path / "hostile.pt"
    torch.save({"model": {"a": torch.zeros(1)}, "extra": attacks(marker)[name]}, path)
    with pytest.raises(InputError) as caught:
        read_without_executing(path)
    assert str(path) in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_the_hostile_file_is_a_real_one(tmp_path: Path) -> None:
    marker = tmp_path / "it_ran"
    torch.save(attacks(marker)["posix.system"], tmp_path / "hostile.pt")
    torch.load(tmp_path / "hostile.pt", weights_only=False)
    assert marker.exists()


def test_a_hostile_file_in_the_old_format_is_refused(tmp_path: Path) -> None:
    marker, path = tmp_path / "it_ran", tmp_path / "hostile.pt"
    torch.save(attacks(marker)["posix.system"], path, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match=r"hostile\.pt: .* before torch 1\.6 and asks for posix\.system"):
        load_weights(path)
    assert not marker.exists()


def test_a_hostile_plain_pickle_runs_nothing(tmp_path: Path) -> None:
    marker, path = tmp_path / "it_ran", tmp_path / "hostile.pt"
    path.write_bytes(pickle.dumps(attacks(marker)["posix.system"], protocol=2))
    with pytest.raises((InputError, pickle.UnpicklingError, RuntimeError)):
        read_without_executing(path)
    assert not marker.exists()


@pytest.fixture
def classic_module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """An importable ``models.yolo`` whose class and function note that they were used."""
    module = types.ModuleType("models.yolo")
    uses: list[str] = []

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
            self.register_buffer("scratch", torch.ones(2), persistent=False)
            self.names = ["a", "b"]
            self.save_dir = Path("runs/exp")
            self.fitness = np.float64(0.25)
            self.history = np.arange(3)

        def __setstate__(self, state: Any) -> None:
            uses.append("setstate")
            super().__setstate__(state)  # type: ignore[no-untyped-call]

    def run(*_arguments: Any) -> str:
        uses.append("run")
        return "ran"

    for thing, name in ((Model, "Model"), (run, "run")):
        thing.__module__, thing.__qualname__ = "models.yolo", name
        setattr(module, name, thing)
    module.uses = uses  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "models", types.ModuleType("models"))
    monkeypatch.setitem(sys.modules, "models.yolo", module)
    return module


def test_modules_of_the_classic_code_become_stand_ins(classic_module: Any, tmp_path: Path) -> None:
    model = classic_module.Model()
    torch.save({"model": model, "settings": OrderedDict(a=1)}, tmp_path / "classic.pt")
    content = read_without_executing(tmp_path / "classic.pt")
    stand_in = content["model"]
    assert isinstance(stand_in, Inert)
    assert not isinstance(stand_in, nn.Module)
    assert stand_in.names == ["a", "b"]  # type: ignore[attr-defined]
    assert content["settings"] == {"a": 1}
    tensors = dict(module_tensors(stand_in))
    assert list(tensors) == list(model.state_dict())  # the buffer that is not persistent stays out
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensors[name], tensor)
    assert classic_module.uses == []


def test_a_call_of_an_allowed_name_does_nothing(classic_module: Any, tmp_path: Path) -> None:
    torch.save({"model": Calls(classic_module.run, 1, "two")}, tmp_path / "call.pt")
    assert torch.load(tmp_path / "call.pt", weights_only=False) == {"model": "ran"}
    assert classic_module.uses == ["run"]
    content = read_without_executing(tmp_path / "call.pt")
    assert isinstance(content["model"], Inert)
    assert classic_module.uses == ["run"]


def test_what_another_library_declared_safe_is_not_resolved(classic_module: Any, tmp_path: Path) -> None:
    torch.save({"model": Calls(classic_module.run)}, tmp_path / "call.pt")
    with torch.serialization.safe_globals([(classic_module.run, "models.yolo.run")]):
        before = set(torch.serialization.get_safe_globals())
        content = read_without_executing(tmp_path / "call.pt")
        assert set(torch.serialization.get_safe_globals()) == before
    assert isinstance(content["model"], Inert)
    assert classic_module.uses == []


def test_the_registry_of_safe_globals_is_restored_after_a_refusal(tmp_path: Path) -> None:
    torch.save(attacks(tmp_path / "x")["builtins.eval"], tmp_path / "hostile.pt")
    with torch.serialization.safe_globals([Calls]):
        before = set(torch.serialization.get_safe_globals())
        with pytest.raises(InputError):
            read_without_executing(tmp_path / "hostile.pt")
        assert set(torch.serialization.get_safe_globals()) == before
        assert Calls in before


def test_old_format_with_tensors_only_is_read(tmp_path: Path) -> None:
    state = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    content = read_without_executing(tmp_path / "old.pt")
    assert content.keys() == state.keys()
    assert all(torch.equal(content[name], state[name]) for name in state)
