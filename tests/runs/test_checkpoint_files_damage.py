import random
import secrets
import zipfile
from pathlib import Path

import pytest
import torch

from tests.runs.test_checkpoint_files import contents
from yolo_lightning.errors import InputError
from yolo_lightning.runs.checkpoint_files import fault, newest_whole, previous_path, write


def never(sentence: str) -> None:
    raise AssertionError(sentence)


@pytest.fixture
def whole(tmp_path: Path) -> tuple[Path, bytes]:
    path = tmp_path / "last.ckpt"
    write({**contents(7, tensors=3, elements=700), "bytes": torch.arange(5_000)}, path)
    assert fault(path) is None
    return path, path.read_bytes()


def test_a_file_that_is_cut_short_is_seen_wherever_it_is_cut(whole: tuple[Path, bytes]) -> None:
    path, data = whole
    ends = {1, 2, 3, 4, 30, len(data) - 22, len(data) - 1, *range(5, len(data), len(data) // 200)}
    for end in ends:
        path.write_bytes(data[:end])
        assert fault(path) == "is cut short", end


def test_a_file_that_ends_in_zeros_is_seen(whole: tuple[Path, bytes]) -> None:
    path, data = whole  # as when the length of a file came to the disk and its end did not
    path.write_bytes(data[:-4096] + bytes(4096))
    assert fault(path) is not None


def test_a_block_of_zeros_in_the_middle_is_seen(whole: tuple[Path, bytes]) -> None:
    path, data = whole
    for start in range(0, len(data) - 512, 512):
        torn = data[:start] + bytes(512) + data[start + 512 :]
        path.write_bytes(torn)
        assert fault(path) is not None or loads_equal(path, data), start


def test_a_flipped_byte_is_seen_or_changes_nothing(whole: tuple[Path, bytes]) -> None:
    path, data = whole  # what changes nothing lies in the padding between the records, or is a date
    seed, seen = secrets.randbelow(2**31), 0
    chance = random.Random(seed)
    ends = range(len(data) - 1500, len(data))  # the directory
    for offset in [*ends, *(chance.randrange(len(data)) for _ in range(1000))]:
        flipped = bytearray(data)
        flipped[offset] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        found = fault(path)
        seen += found is not None
        assert found or loads_equal(path, data), f"seed {seed}, byte {offset} of {len(data)}"
    assert seen > 1000


def loads_equal(path: Path, data: bytes) -> bool:
    good = path.with_name("good.ckpt")
    good.write_bytes(data)
    a, b = (torch.load(file, weights_only=True) for file in (path, good))
    tensors = [(a["state_dict"][name], value) for name, value in b["state_dict"].items()]
    same = all(torch.equal(x, y) for x, y in [*tensors, (a["bytes"], b["bytes"])])
    return same and a.keys() == b.keys() and a["epoch"] == b["epoch"]


def test_other_faults_have_names(tmp_path: Path) -> None:
    (tmp_path / "folder.ckpt").mkdir()
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "text.ckpt").write_text("hello")
    with zipfile.ZipFile(tmp_path / "other.ckpt", "w") as archive:
        archive.writestr("a.txt", "no checkpoint")
    names = ("missing", "folder", "empty", "text", "other")
    found = [fault(tmp_path / f"{name}.ckpt") for name in names]
    assert found == [
        "is missing",
        "is not a file",
        "is empty",
        "is not a checkpoint, or damaged",
        "is not a checkpoint, or damaged in its directory",
    ]


def test_a_whole_file_with_more_than_plain_values_is_whole(tmp_path: Path) -> None:
    write({"path": tmp_path}, tmp_path / "of_a_user.ckpt")
    assert fault(tmp_path / "of_a_user.ckpt") is None


def test_large_records_are_checked_whole(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write({"a": torch.arange(400_000)}, path)  # of 3.2 MB, more than is read at once
    assert fault(path) is None
    data = bytearray(path.read_bytes())
    data[-2000] ^= 1  # near the end of the record
    path.write_bytes(data)
    assert fault(path) == "is damaged in 'archive/data/0'"


def test_the_newest_whole_checkpoint_is_found_and_a_damaged_one_named(tmp_path: Path) -> None:
    last = tmp_path / "last.ckpt"
    for number in (1, 2):
        write(contents(number), last, keep_previous=True)
    assert newest_whole(last, never) == last
    said: list[str] = []
    data = last.read_bytes()
    last.write_bytes(data[:5000])
    assert newest_whole(last, said.append) == previous_path(last)
    last.unlink()
    assert newest_whole(last, said.append) == previous_path(last)
    rest = f"; {previous_path(last)}, the checkpoint before it, is used instead"
    assert said == [f"{last}: is cut short{rest}", f"{last}: is missing{rest}"]
    last.write_bytes(data[:5000])
    previous_path(last).write_bytes(b"")
    with pytest.raises(
        InputError, match=r"last\.ckpt: is cut short, and last\.previous\.ckpt beside it is empty; a"
    ):
        newest_whole(last, never)
    previous_path(last).unlink()
    with pytest.raises(
        InputError, match=r"last\.ckpt: is cut short; a damaged file cannot be used, give another"
    ):
        newest_whole(last, never)
