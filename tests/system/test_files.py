from pathlib import Path

import pytest

from yolo_lightning.system import files as atomic
from yolo_lightning.system.files import whole_file, write_whole


@pytest.mark.parametrize("contents", [b"newer", "newer"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    contents: str | bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "summary.json"
    write_whole(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "fsync", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_whole(path, contents)
    assert path.read_bytes() == b"old"
    assert [file.name for file in path.parent.iterdir()] == ["summary.json"]
    write_whole(path, contents)
    assert path.read_bytes() == b"newer"
    assert [file.name for file in path.parent.iterdir()] == ["summary.json"]


def test_text_is_written_in_utf_8(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "Blutplättchen\n猫\ud800")
    assert (tmp_path / "a").read_bytes() == "Blutplättchen\n猫?".encode()


@pytest.mark.parametrize("sync", [True, False])
def test_a_file_that_a_block_writes_takes_its_place_at_the_end(sync: bool, tmp_path: Path) -> None:
    path = tmp_path / "new" / "index"
    with whole_file(path, sync=sync) as temporary:
        temporary.write_bytes(b"old")
        assert temporary.parent == path.parent and not path.exists()
    with pytest.raises(ZeroDivisionError), whole_file(path, sync=sync) as temporary:
        temporary.write_bytes(b"half")
        _ = 1 / 0
    assert path.read_bytes() == b"old" and [file.name for file in path.parent.iterdir()] == ["index"]
