import errno
import threading
import time
import weakref
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.runs.test_checkpoint_files import contents, number_of, python
from yolo_lightning.model.network import build_network
from yolo_lightning.runs import checkpoint_files as files
from yolo_lightning.runs import checkpoint_io as background
from yolo_lightning.runs.checkpoint_files import NoSpace, previous_path
from yolo_lightning.runs.checkpoint_io import RunCheckpointIO
from yolo_lightning.runs.snapshot import Snapshots


def snapshot(contents: Any) -> Any:
    return Snapshots().take(contents).contents


def test_a_snapshot_does_not_change_with_what_it_was_taken_of() -> None:
    tensor = torch.arange(6.0)
    inner: dict[str, Any] = {"lr": 0.1, "betas": [0.9, 0.99]}
    original: dict[str, Any] = {"a": [tensor, (tensor[2:4],)], "groups": inner, "epoch": 3}
    taken = snapshot(original)
    tensor.fill_(-1)
    inner["betas"][0] = 0.5
    original["epoch"] = 4
    whole, (part,) = taken["a"]
    assert torch.equal(whole, torch.arange(6.0)) and torch.equal(part, torch.tensor([2.0, 3.0]))
    assert (taken["groups"], taken["epoch"]) == ({"lr": 0.1, "betas": [0.9, 0.99]}, 3)


def test_the_same_memory_is_copied_once_and_other_views_of_it_by_themselves(tmp_path: Path) -> None:
    weight = torch.arange(12.0).view(3, 4)
    views = {
        "same": weight.view(3, 4),
        "turned": weight.t(),
        "row": weight[1],
        "bits": weight.view(torch.int),
    }
    taken = snapshot({"a": weight, "b": weight, **views})
    assert taken["a"] is taken["b"]
    assert taken["a"].data_ptr() == taken["same"].data_ptr() != weight.data_ptr()
    assert len({taken[name].data_ptr() for name in ("a", "turned", "row", "bits")}) == 4
    assert all(torch.equal(taken[name], view) for name, view in views.items())
    files.write(taken, tmp_path / "views.ckpt")
    loaded = torch.load(tmp_path / "views.ckpt", weights_only=True)
    assert loaded["a"].data_ptr() == loaded["b"].data_ptr() == loaded["same"].data_ptr()
    with zipfile.ZipFile(tmp_path / "views.ckpt") as archive:
        assert sum("/data/" in name for name in archive.namelist()) == 4


@pytest.mark.parametrize(
    "tensor",
    [
        torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.rand(4, 6).t(),
        torch.rand(6, 8)[:, ::2],
        torch.rand(3, 1).expand(3, 5),
        torch.rand(()),
        torch.empty(0, 3),
        torch.tensor([True, False]),
        torch.rand(5).to(torch.bfloat16),
        torch.nn.Parameter(torch.rand(3)),
        torch.rand(3, requires_grad=True) * 2,
        torch.rand(3).to_sparse(),
    ],
    ids=["channels_last", "turned", "strided", "expanded", "scalar", "empty", "bool", "bf16", "parameter",
         "with_history", "sparse"],
)  # fmt: skip
def test_a_snapshot_has_the_values_and_the_order_in_memory(tensor: torch.Tensor) -> None:
    if tensor.layout != torch.strided:
        tensor = tensor.coalesce()
    taken = snapshot([tensor])[0]
    assert type(taken) is type(tensor) and taken.dtype == tensor.dtype and taken.layout == tensor.layout
    assert torch.equal(taken.to_dense(), tensor.detach().to_dense()) and taken.grad_fn is None
    if taken.layout == torch.strided:
        assert taken.data_ptr() != tensor.data_ptr() or not tensor.numel()
        assert taken.requires_grad == tensor.requires_grad
    if tensor.layout == torch.strided and torch.ops.aten.is_non_overlapping_and_dense(tensor):
        assert taken.stride() == tensor.stride()


def test_a_network_s_state_comes_back_as_it_was(tmp_path: Path) -> None:
    network = build_network("yolov5n", 3).to(memory_format=torch.channels_last)
    state = network.state_dict()
    taken = snapshot(state)
    assert type(taken) is OrderedDict and taken._metadata == state._metadata  # type: ignore[attr-defined]
    files.write({"state_dict": taken}, tmp_path / "last.ckpt")
    loaded = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert loaded.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(loaded[name], value) and loaded[name].stride() == value.stride()


class Calls(TorchDispatchMode):
    """Names of what torch is asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_snapshot_in_used_memory_is_one_call_of_torch() -> None:
    """A call for each tensor takes seconds beside a thread that computes in Python."""
    original = {"state": {n: torch.full((n + 1,), float(n)) for n in range(50)}, "count": torch.tensor(7)}
    snapshots = Snapshots()
    first = snapshots.take(original)
    places = [values.data_ptr() for values in first.contents["state"].values()]
    snapshots.give_back(first)
    for value in original["state"].values():
        value.add_(1)
    with Calls() as calls:
        second = snapshots.take(original)
    assert calls.names == ["_foreach_copy_"]
    assert sorted(values.data_ptr() for values in second.contents["state"].values()) == sorted(places)
    for n, values in second.contents["state"].items():
        assert torch.equal(values, torch.full((n + 1,), n + 1.0))
    assert second.contents["count"] == 7


def test_what_comes_and_goes_finds_its_memory_again() -> None:
    """Gradients wait at some checkpoints and not at others."""
    weights, gradients = [torch.rand(8) for _ in range(5)], [torch.rand(4) for _ in range(5)]
    snapshots = Snapshots()
    snapshots.give_back(snapshots.take([weights, gradients]))
    snapshots.give_back(snapshots.take([weights]))
    with Calls() as calls:
        taken = snapshots.take([weights, gradients])
    assert calls.names == ["_foreach_copy_"]
    assert all(map(torch.equal, [*taken.contents[0], *taken.contents[1]], [*weights, *gradients]))


def test_memory_that_is_not_given_back_stays_as_it_is_and_what_is_too_much_is_let_go() -> None:
    small, large = torch.zeros(3), torch.ones(5)
    snapshots = Snapshots()
    first = snapshots.take([small, large])
    small.fill_(2)
    second = snapshots.take([small])
    assert first.contents[0].tolist() == [0, 0, 0] and second.contents[0].tolist() == [2, 2, 2]
    snapshots.give_back(first)
    third = snapshots.take([small])  # is less than the room of the large one
    let_go, kept = weakref.ref(first.contents[1]), first.contents[0].data_ptr()
    del first
    assert let_go() is None and third.contents[0].data_ptr() == kept
    again = snapshots.take([small.to(torch.float64), large])
    assert again.contents[0].dtype == torch.float64 and again.contents[1].tolist() == [1] * 5


def test_a_snapshot_of_evaluation_leaves_memory_that_training_can_use() -> None:
    snapshots, weight = Snapshots(), torch.rand(3)
    with torch.inference_mode():
        snapshots.give_back(snapshots.take([weight]))
    assert torch.equal(snapshots.take([weight]).contents[0], weight)


def test_only_devices_that_are_waited_for_copy_beside_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    beside: list[bool] = []
    monkeypatch.setattr("torch._foreach_copy_", lambda *_, non_blocking: beside.append(non_blocking))
    snapshots = Snapshots()
    snapshots.take([torch.rand(3)])
    snapshots.take([torch.rand(3), torch.rand(3, device="meta")])  # stands for a device that is not CUDA
    assert beside == [True, False]


def test_a_list_that_holds_itself_is_copied_once() -> None:
    original: list[Any] = [torch.arange(3)]
    original.append(original)
    taken = snapshot(original)
    assert taken[1] is taken is not original and torch.equal(taken[0], torch.arange(3))


def test_the_moment_of_handing_over_counts(tmp_path: Path) -> None:
    writer, last = RunCheckpointIO(), tmp_path / "last.ckpt"
    changing = contents(1)
    for number in range(1, 6):
        changing["epoch"] = number
        for value in changing["state_dict"].values():
            value.fill_(number)
        writer.submit(changing, last, keep_previous=True)
    for value in changing["state_dict"].values():
        value.zero_()
    writer.wait()
    assert (number_of(last), number_of(previous_path(last))) == (5, 4)
    assert writer.saves == 5 and writer.stall_seconds > 0
    writer.teardown()
    assert not writer._snapshots._returned  # and no memory is held
    writer.submit(contents(6), last)  # after the end it begins anew
    writer.teardown()
    assert number_of(last) == 6


class Gate:
    """Stands for ``write``: lets one through when it is told to, and fails where it shall."""

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)
        self.written: list[str] = []
        self.under_way, self.most_under_way = 0, 0

    def __call__(self, contents: Any, path: Any, keep_previous: bool) -> None:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        assert self.permits.acquire(timeout=60)
        self.under_way -= 1
        if contents == "fails":
            raise NoSpace(f"{path}: no room")
        self.written.append(str(path))


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()
    monkeypatch.setattr(background, "write", gate)
    return gate


def test_no_more_than_two_snapshots_wait(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def perf_counter() -> float:
        now = time.perf_counter()
        asked.set()
        return now

    monkeypatch.setattr(background, "time", SimpleNamespace(perf_counter=perf_counter))
    writer = RunCheckpointIO()
    writer.submit(0, "a")
    writer.submit(0, "b")
    asked.clear()
    third = threading.Thread(target=writer.submit, args=(0, "c"))
    third.start()
    assert asked.wait(60)  # a busy machine may let it begin late, and only from there on it is held
    third.join(timeout=0.3)
    assert third.is_alive() and writer.saves == 2
    gate.permits.release()
    third.join(timeout=60)
    assert writer.saves == 3
    gate.permits.release(2)
    writer.teardown()
    assert gate.written == ["a", "b", "c"] and gate.most_under_way == 1
    assert writer.stall_seconds > 0.2


def test_an_error_in_the_background_reaches_the_next_caller_once(gate: Gate) -> None:
    writer = RunCheckpointIO()
    gate.permits.release()
    writer.submit("fails", "best")
    writer._pending[0].result(timeout=60)
    assert writer.failed
    with pytest.raises(NoSpace, match="best: no room"):
        writer.submit(0, "last")
    assert not writer.failed and writer.saves == 1
    writer.wait()
    writer.submit("fails", "best")
    writer.submit(0, "last")
    gate.permits.release(2)
    with pytest.raises(NoSpace, match="best: no room"):
        writer.teardown()
    writer.teardown()
    assert gate.written == ["last"]  # what lay behind was tried all the same


@pytest.mark.parametrize("has_links", [True, False])
def test_what_was_written_gets_another_name(
    has_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    if not has_links:
        monkeypatch.setattr("os.link", refuse)
    writer, best, last = RunCheckpointIO(), tmp_path / "best.ckpt", tmp_path / "last.ckpt"
    for number in (1, 2):
        writer.submit(contents(number), best)
        writer.submit_again(best, last, keep_previous=True)
    writer.submit(contents(3), best)
    writer.teardown()
    assert (number_of(best), number_of(last), number_of(previous_path(last))) == (3, 2, 1)
    assert {file.name for file in tmp_path.iterdir()} == {best.name, last.name, previous_path(last).name}


def test_what_could_not_be_written_gets_no_other_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of that name is then an older one."""
    writer, best, last = RunCheckpointIO(), tmp_path / "best.ckpt", tmp_path / "last.ckpt"
    writer.submit(contents(1), best)
    writer.submit(contents(2), last)
    writer.wait()
    gate = Gate()
    monkeypatch.setattr(background, "write", gate)
    writer.submit("fails", best)
    writer.submit_again(best, last)
    gate.permits.release()
    with pytest.raises(NoSpace, match=r"best\.ckpt: no room"):
        writer.teardown()
    assert (number_of(best), number_of(last)) == (1, 2)


def test_a_full_disk_in_the_background_reaches_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer, last = RunCheckpointIO(), tmp_path / "last.ckpt"
    writer.submit(contents(1), last)
    writer.wait()
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        writer.submit(contents(2), last)
        with pytest.raises(NoSpace, match="the disk is full"):
            writer.wait()
    assert number_of(last) == 1
    writer.teardown()


def test_a_process_that_ends_finishes_what_it_began(tmp_path: Path) -> None:
    code = (
        "import sys; from tests.runs.test_checkpoint_files import *; writer = RunCheckpointIO()\n"
        "for n in (1, 2): writer.submit(contents(n, elements=200_000), sys.argv[1], keep_previous=True)"
    )
    last = tmp_path / "last.ckpt"
    done = python(code, str(last))
    assert done.returncode == 0, done.stderr
    assert (number_of(last), number_of(previous_path(last))) == (2, 1)


def test_a_forked_process_starts_without_the_thread(tmp_path: Path) -> None:
    code = (
        "import os, sys; from tests.runs.test_checkpoint_files import *; writer = RunCheckpointIO()\n"
        "parent, child = sys.argv[1:]\n"
        "writer.submit(contents(1, elements=500_000), parent)\n"
        "if os.fork() == 0:\n"
        "    writer.wait(); writer.submit(contents(2), child); writer.teardown(); os._exit(0)\n"
        "assert os.wait()[1] == 0; writer.teardown()"
    )
    parent, child = tmp_path / "parent" / "last.ckpt", tmp_path / "child" / "last.ckpt"
    done = python(code, str(parent), str(child))
    assert done.returncode == 0, done.stderr
    assert (number_of(parent), number_of(child)) == (1, 2)
