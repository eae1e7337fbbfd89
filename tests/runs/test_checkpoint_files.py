import errno
import os
import random
import resource
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.mounts import file_system
from yolo_lightning.runs import checkpoint_files as files
from yolo_lightning.runs.checkpoint_files import NoSpace, full_disk_error, newest_whole, previous_path, write
from yolo_lightning.runs.checkpoint_io import RunCheckpointIO
from yolo_lightning.system import files as whole_files

REPOSITORY = Path(__file__).parents[2]


def contents(number: int, tensors: int = 12, elements: int = 2_000) -> dict[str, Any]:
    """A checkpoint all of whose values say which one it is."""
    state = {f"layer.{i}": torch.full((elements,), float(number)) for i in range(tensors)}
    return {"epoch": number, "state_dict": state, "names": ["cat", "dog"]}


def number_of(path: Path) -> int:
    """Which one it is, once everything in it agrees."""
    found = torch.load(path, weights_only=True)
    assert all(bool((value == found["epoch"]).all()) for value in found["state_dict"].values())
    assert found["names"] == ["cat", "dog"] and len(found["state_dict"]) == 12
    return int(found["epoch"])


def python(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run code in a process of its own, with one thread, so that it may fork."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_a_checkpoint_is_written_and_the_one_before_it_kept(tmp_path: Path) -> None:
    last = tmp_path / "new" / "last.ckpt"
    for number in (1, 2, 3):
        write(contents(number), last, keep_previous=True)
    assert (number_of(last), number_of(previous_path(last))) == (3, 2)
    write(contents(4), last)
    assert (number_of(last), number_of(previous_path(last))) == (4, 2)
    assert {file.name for file in last.parent.iterdir()} == {"last.ckpt", "last.previous.ckpt"}


@pytest.mark.parametrize("has_links", [True, False])
@pytest.mark.parametrize("torn", [False, True])
def test_at_every_moment_one_whole_file_of_the_two_exists(
    has_links: bool, torn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = tmp_path / "last.ckpt"
    for number in (1, 2):
        write(contents(number), last, keep_previous=True)
    if torn:  # as a machine without power leaves it; the whole one is then the one before
        last.write_bytes(last.read_bytes()[:-100])
    moments: list[int] = []

    def look() -> None:
        moments.append(number_of(newest_whole(last, lambda _: None)))

    def watched(function: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any, **options: Any) -> None:
            look()
            function(*arguments, **options)
            look()

        return call

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", watched(os.link) if has_links else refuse)
    for name in ("replace", "unlink", "fsync"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    write(contents(3), last, keep_previous=True)
    assert len(moments) >= 8
    assert moments == sorted(moments) and set(moments) == {1 if torn else 2, 3}
    assert number_of(previous_path(last)) == (1 if torn else 2)


def kill_many(folder: str, background: str, seed: str) -> None:
    """Kill a process that writes checkpoint after checkpoint, 20 times, and look at what it left.

    A slow disk may not take a single one in that time: then it is killed 60 times more, ever later.
    """
    chance, last, written, mid_write = random.Random(int(seed)), Path(folder) / "last.ckpt", 0, 0
    told = Path(folder) / "told"
    for kill in range(80):
        if kill >= 20 and written and mid_write:
            break
        child = os.fork()
        if child == 0:
            _write_for_ever(last, told, written, background == "True")
        time.sleep(chance.uniform(0.02, 0.2) * 2 ** (kill // 20))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        mid_write += any(Path(folder).glob(".*.tmp"))
        if told.exists():  # else it was killed before it had written any
            promised = int(told.read_text() or written)
            written = number_of(newest_whole(last, print))
            assert promised <= written, f"{promised} was on the disk, {written} is found"
    write(contents(0), last, keep_previous=True)
    left = {file.name for file in Path(folder).iterdir()} - {"part"}  # ours, of one killed while it told
    assert left == {"last.ckpt", "last.previous.ckpt", "told"}
    print(f"{written} written, {mid_write} kills in a write")
    assert written > 0 and mid_write > 0


def _write_for_ever(last: Path, told: Path, number: int, background: bool) -> None:
    writer = RunCheckpointIO()
    while True:
        number += 1
        if background:
            writer.submit(contents(number), last, keep_previous=True)
            if number % 3 == 0:
                writer.wait()
        else:
            write(contents(number), last, keep_previous=True)
        if number % 3 == 0 or not background:
            part = told.with_name("part")
            part.write_text(str(number))
            part.replace(told)


@pytest.mark.parametrize("background", [False, True])
def test_a_process_killed_at_any_moment_leaves_a_whole_checkpoint(background: bool, tmp_path: Path) -> None:
    seed = str(secrets.randbelow(2**31))
    code = "import sys; from tests.runs.test_checkpoint_files import kill_many; kill_many(*sys.argv[1:])"
    done = python(code, str(tmp_path), str(background), seed)
    assert done.returncode == 0, f"seed {seed}: {done.stdout} {done.stderr[-2000:]}"
    print(f"seed {seed}: {done.stdout}")


def test_what_dead_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    last = tmp_path / "last.ckpt"
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    host, token, me = whole_files._HOST, "0123abcd", os.getpid()
    names = {
        "dead": f".last.ckpt.{host}-{process.pid}-{token}-0.tmp",
        "restarted": f".last.ckpt.{host}-{me}-{token}-1.tmp",  # our number, but not our mark
        "old": f".last.ckpt.elsewhere-{process.pid}-{token}-2.tmp",
        "alive": f".best.ckpt.{host}-{os.getppid()}-{token}-3.tmp",
        "elsewhere": f".best.ckpt.elsewhere-{process.pid}-{token}-4.tmp",
        "ours": f".best.ckpt.{host}-{me}-{whole_files._TOKEN}-5.tmp",
        "a_user's": ".mine.tmp",
    }
    for name in names.values():
        (tmp_path / name).write_bytes(b"part")
    long_ago = time.time() - 25 * 3600
    os.utime(tmp_path / names["old"], (long_ago, long_ago))
    write(contents(1), last)
    left = {key for key, name in names.items() if (tmp_path / name).exists()}
    assert left == {"alive", "elsewhere", "ours", "a_user's"}


def limit_files(size: str, folder: str) -> None:
    """Write a checkpoint where files may not be larger than this, and say what came of it."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), resource.RLIM_INFINITY))
    try:
        write(contents(3), Path(folder) / "last.ckpt", keep_previous=True)
    except NoSpace as error:
        print(f"NoSpace {error}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with file_system(folder, "1m"):
        yield folder


def check_that_both_are_as_before(last: Path, message: str) -> None:
    assert (number_of(last), number_of(previous_path(last))) == (2, 1)
    assert {file.name for file in last.parent.iterdir()} - {"ballast"} == {last.name, "last.previous.ckpt"}
    assert message.startswith(f"{last}: cannot be written, ")
    assert message.endswith(
        f"the earlier checkpoints are whole, make room and resume with --ckpt_path {last}"
    )


@pytest.mark.parametrize("size", [100, 5_000, 60_000, 98_000])
def test_a_limit_on_files_is_said_and_leaves_the_earlier_ones_whole(size: int, tmp_path: Path) -> None:
    last = tmp_path / "last.ckpt"
    for number in (1, 2):
        write(contents(number), last, keep_previous=True)
    assert last.stat().st_size > size
    code = "import sys; from tests.runs.test_checkpoint_files import limit_files; limit_files(*sys.argv[1:])"
    done = python(code, str(size), str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "(see ulimit -f) (0.1 MB needed)" in done.stdout
    check_that_both_are_as_before(last, done.stdout.strip().removeprefix("NoSpace "))


@pytest.mark.parametrize("left", [50_000, 105_000])
def test_a_full_disk_is_said_and_leaves_the_earlier_ones_whole(small_disk: Path, left: int) -> None:
    # 96 kB of tensors make a file of more than that: it is refused at once, or fails on its way
    last = small_disk / "last.ckpt"
    for number in (1, 2):
        write(contents(number), last, keep_previous=True)
    ballast = small_disk / "ballast"
    status = os.statvfs(small_disk)
    ballast.write_bytes(bytes(status.f_bfree * status.f_frsize - left))
    big = contents(3)
    if left > 100_000:
        big["more"] = [torch.zeros(1) for _ in range(500)]
    with pytest.raises(NoSpace, match=r"the disk is full \(0.1 MB needed, 0.[01] MB free\)") as raised:
        write(big, last, keep_previous=True)
    check_that_both_are_as_before(last, str(raised.value))
    ballast.unlink()
    write(contents(3), last, keep_previous=True)
    assert (number_of(last), number_of(previous_path(last))) == (3, 2)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("call", ["fsync", "link", "replace"])
def test_no_space_is_seen_wherever_it_shows(
    call: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = tmp_path / "last.ckpt"
    for number in (1, 2):
        write(contents(number), last, keep_previous=True)

    def fail(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(NoSpace) as raised:
            write(contents(3), last, keep_previous=True)
    check_that_both_are_as_before(last, str(raised.value))


def test_another_error_stays_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        write(contents(1), tmp_path / "last.ckpt")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_without_checkpoints_says_to_start_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_free_bytes", lambda _: 10)
    with pytest.raises(NoSpace, match="there is no earlier checkpoint, make room and start again"):
        write(contents(1), tmp_path / "last.ckpt")


def test_a_full_disk_is_recognised_behind_another_error() -> None:
    error = RuntimeError("unexpected pos 64 vs 0")
    error.__cause__ = ValueError()
    error.__cause__.__context__ = full = OSError(errno.ENOSPC, "No space left on device")
    assert full_disk_error(error) is full
    assert full_disk_error(OSError(errno.EACCES, "no")) is None and full_disk_error(None) is None
    error.__cause__.__context__ = error  # a ring
    assert full_disk_error(error) is None
