"""Files that a stranger made to do harm where weights or a checkpoint are read."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from yolo_lightning.errors import InputError
from yolo_lightning.model.weights import load_weights
from yolo_lightning.runs.checkpoint_files import newest_whole
from yolo_lightning.runs.checkpoint_format import read_resumption

MARKER = "it_ran"


class Evil:
    """Pickles into a call that leaves the marker."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {MARKER}",)


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def checkpoint(**parts: Any) -> bytes:
    """A checkpoint of this package in its keys, with other values in some of them."""
    counts = {"ready": 1, "started": 1, "processed": 1, "completed": 1}
    loop = {
        "epoch_progress": {"current": counts, "total": counts},
        "epoch_loop.batch_progress": {"current": counts, "total": counts},
        "epoch_loop.state_dict": {"_batches_that_stepped": 1},
    }
    usual = {
        "state_dict": {"network.model.0.conv.weight": torch.zeros(16, 3, 6, 6)}, "callbacks": {},
        "loops": {"fit_loop": loop}, "global_step": 1, "hyper_parameters": {"architecture": "yolov5n"},
    }  # fmt: skip
    return saved(usual | parts)


def rezipped(change: Callable[[str, bytes], list[tuple[str, bytes]]], **options: Any) -> bytes:
    """A checkpoint whose records are changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(checkpoint())) as old, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that come twice
        with zipfile.ZipFile(buffer, "w", **options) as new:
            for name in old.namelist():
                for changed, content in change(name, old.read(name)):
                    new.writestr(changed, content)
    return buffer.getvalue()


def with_records(*more: tuple[str, bytes]) -> bytes:
    return rezipped(lambda name, content: [(name, content), *(more if name.endswith(".pkl") else ())])


def with_pickle(content: bytes) -> bytes:
    return rezipped(lambda name, old: [(name, content if name.endswith("data.pkl") else old)])


def safetensors(header: Any, data: bytes = b"\0" * 64, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype: str = "F32", shape: tuple[int, ...] = (4,), offsets: tuple[int, int] = (0, 16)) -> Any:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("../it_ran", "storages", "tensors", "pickle"):
            content = pickle.dumps(Evil())
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def overlapping(data: bytes) -> bytes:
    """The same record 1,000 times under other names: the archive unpacks to more than it has."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
    end = data.rfind(b"PK\x05\x06")
    count, size, start = struct.unpack("<HII", data[end + 10 : end + 20])
    entry = struct.pack(
        "<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", 20, 20, 0, 0, 0, 33, largest.CRC, largest.file_size,
        largest.file_size, 5, 0, 0, 0, 0, 0, largest.header_offset,
    )  # fmt: skip
    more = b"".join(entry + f"x{n:04}".encode() for n in range(1000))
    tail = struct.pack(
        "<4sHHHHIIH", b"PK\x05\x06", 0, 0, count + 1000, count + 1000, size + len(more), start, 0
    )
    return data[: start + size] + more + tail


EVIL = pickle.dumps(Evil(), protocol=2)
NEVER_READ: dict[str, Callable[[], bytes]] = {
    "code in the state dict": lambda: checkpoint(state_dict={"a": Evil()}),
    "code in a key": lambda: checkpoint(**{"epoch": {("a", Evil()): 1}}),
    "code in the hyper-parameters": lambda: checkpoint(hyper_parameters={"architecture": Evil()}),
    "code in the callbacks": lambda: checkpoint(callbacks={"a": Evil()}),
    "code in the loops": lambda: checkpoint(loops=Evil()),
    "code in the optimizer": lambda: checkpoint(optimizer_states=[Evil()]),
    "code in the random states": lambda: checkpoint(within_epoch={"random": Evil()}),
    "code in place of all": lambda: saved(Evil()),
    "a pickle in the archive": lambda: with_pickle(EVIL),
    "a pickle that calls a stand-in's method": lambda: with_pickle(b"\x80\x02cmodels.yolo\nModel.mro\n(tR."),
    "a pickle that installs": lambda: with_pickle(b"\x80\x02cpip\nmain\n(]U\x07installatR."),
    "a pickle without end": lambda: with_pickle(b"\x80\x02" + b"(" * 100_000),
    "a pickle with a memo of 2**31": lambda: with_pickle(b"\x80\x02]r\xff\xff\xff\x7f."),
    "a long that has 2**31 bytes": lambda: with_pickle(b"\x80\x02\x8b\xff\xff\xff\x7f."),
    "a plain pickle": lambda: EVIL,
    "a plain pickle of protocol 5": lambda: pickle.dumps(Evil(), protocol=5),
    "a tar": tar,
    "an empty zip": lambda: rezipped(lambda name, content: []),
    "a compressed bomb": lambda: rezipped(
        lambda name, content: [(name, b"\0" * 10_000_000 if "/data/" in name else content)],
        compression=zipfile.ZIP_DEFLATED,
    ),
    "records that overlap": lambda: overlapping(checkpoint()),
    "a number as a tensor of 4 TB": lambda: checkpoint(state_dict={"a": torch.zeros(1).expand(10**12)}),
    "a number as a tensor of 10 GB": lambda: checkpoint(
        state_dict={"a": torch.ones(1).half().expand(5 * 10**9)}
    ),
    "a classic tensor of 10 GB": lambda: saved({"model": {"a": torch.ones(1).half().expand(5 * 10**9)}}),
    "classes beyond number": lambda: checkpoint(
        state_dict={
            "a.anchors": torch.zeros(3, 3, 2),
            "a.m.0.weight": torch.zeros(1).expand(3 * 10**9, 1, 1, 1),
        }
    ),
    "a sparse tensor": lambda: checkpoint(
        state_dict={"a": torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones(1), (10**12,))}
    ),
    "a tensor on no device": lambda: checkpoint(state_dict={"a": torch.zeros(10**12, device="meta")}),
    "a tensor beyond its storage": lambda: rezipped(
        lambda name, content: [(name, content.replace(b"K\x10K\x03K\x06", b"K\xffK\x03K\x06", 1))]
    ),
    "an archive without the pickle": lambda: rezipped(
        lambda name, content: [] if name.endswith("data.pkl") else [(name, content)]
    ),
}
"""No reader accepts these."""
HARMLESS: dict[str, Callable[[], bytes]] = {
    "a record outside": lambda: with_records((f"../{MARKER}", b"x")),
    "a record at the root": lambda: with_records((f"{Path('/tmp') / MARKER}", b"x")),
    "a record with code": lambda: with_records(("archive/code/evil.py", b"open('it_ran', 'w')")),
    "another pickle in the archive": lambda: with_records(("archive/constants.pkl", EVIL)),
    "a name that comes twice": lambda: with_records(("archive/data.pkl", EVIL)),
}
"""These may be read: what is too much in them is left alone."""
SAFETENSORS: dict[str, Callable[[], bytes]] = {
    "a header of 2**63 bytes": lambda: safetensors({}, length=2**63),
    "a header of 90 MB in a short file": lambda: safetensors({}, length=90_000_000),
    "no header": lambda: b"\0" * 4,
    "a header that is no JSON": lambda: safetensors(b"{'a': __import__('os')}"),
    "a header that is a pickle": lambda: safetensors(EVIL),
    "a header of nested lists": lambda: safetensors(b"[" * 100_000),
    "overlapping tensors": lambda: safetensors({"a": tensor(), "b": tensor(offsets=(8, 24))}, b"\0" * 24),
    "offsets outside": lambda: safetensors({"a": tensor(offsets=(0, 2**40))}),
    "offsets backwards": lambda: safetensors({"a": tensor(offsets=(16, 0))}),
    "negative offsets": lambda: safetensors({"a": tensor(offsets=(-16, 0))}),
    "a shape that does not fit": lambda: safetensors({"a": tensor(shape=(2**62, 8))}),
    "a wrong type": lambda: safetensors({"a": tensor("F31")}),
    "a hole": lambda: safetensors({"a": tensor(offsets=(8, 24))}, b"\0" * 24),
    "a pickle in the place": lambda: EVIL,
}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")


def outcome(read: Callable[[Path], Any], path: Path) -> str | None:
    """The sentence of a refusal; None if it was read. Nothing ran, and nothing was written."""
    before = sorted(path.parent.parent.rglob("*"))
    try:
        read(path)
        sentence = None
    except InputError as error:
        sentence = str(error)
        assert str(path) in sentence and "\n" not in sentence and len(sentence) < 2000
    assert sorted(path.parent.parent.rglob("*")) == before
    assert not Path("/tmp", MARKER).exists()
    return sentence


def as_checkpoint(path: Path) -> None:
    read_resumption(newest_whole(path, lambda _: None))


@pytest.mark.parametrize("read", [load_weights, as_checkpoint])
@pytest.mark.parametrize("name", NEVER_READ)
def test_a_hostile_file_is_refused_in_one_sentence(name: str, read: Any) -> None:
    path = Path("hostile.ckpt").absolute()
    path.write_bytes(NEVER_READ[name]())
    assert outcome(read, path) is not None


@pytest.mark.parametrize("read", [load_weights, as_checkpoint])
@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_too_much_in_a_file_is_left_alone(name: str, read: Any) -> None:
    path = Path("hostile.ckpt").absolute()
    path.write_bytes(HARMLESS[name]())
    outcome(read, path)


@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_hostile_safetensors_file_is_refused_in_one_sentence(name: str) -> None:
    path = Path("hostile.safetensors").absolute()
    path.write_bytes(SAFETENSORS[name]())
    assert outcome(load_weights, path) is not None


def test_the_files_they_are_made_from_are_read() -> None:
    """So the others are refused for what is wrong with them."""
    Path("good.ckpt").write_bytes(checkpoint())
    Path("zip.ckpt").write_bytes(with_records())
    for path in (Path("good.ckpt"), Path("zip.ckpt")):
        assert load_weights(path).state_dict
        as_checkpoint(path)
    save_file({"a": torch.zeros(4)}, "good.safetensors")
    Path("own.safetensors").write_bytes(safetensors({"a": tensor()}, b"\0" * 16))
    for name in ("good", "own"):
        assert load_weights(f"{name}.safetensors").state_dict["a"].tolist() == [0] * 4
    torch.load(io.BytesIO(saved(Evil())), weights_only=False)
    assert Path(MARKER).exists()  # the pickle does run where pickles are run
