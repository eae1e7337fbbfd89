from pathlib import Path

import pytest

from yolo_lightning.system import files as atomic
from yolo_lightning.system.files import write_whole


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
