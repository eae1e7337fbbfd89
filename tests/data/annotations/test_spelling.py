from __future__ import annotations

from pathlib import Path

import pytest

from yolo_lightning.data.annotations import spelling
from yolo_lightning.data.annotations.spelling import read_text, with_slashes
from yolo_lightning.errors import InputError


def find_respelled(folders: list[Path], names: list[str]) -> list[str] | None:
    notes: list[str] = []
    found = spelling.find_respelled(folders, names, Path("list"), notes)
    assert len(notes) == (found is not None)
    return found


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    "name",
    [
        "sub\\a.png",
        ".\\sub\\a.png",
        "./sub/a.png",
        "C:\\Users\\me\\set\\sub\\a.png",
        "/home/me/set/sub/a.png",
        "file:///C:/set/sub/a.png",
        "https://host/bucket/sub/a.png?token=x/y#z",
        "http://host/%73ub/a.png",
        "s3://bucket/sub/A.PNG",
        "/data/local-files/?d=sub/a.png",
        "../sub/a.png",
        "sub\\a.PNG",
        "x/" * 30 + "sub/a.png",
    ],
)
def test_spellings_of_one_image(tmp_path: Path, name: str) -> None:
    _touch(tmp_path, "sub/a.png", "b.png")
    assert find_respelled([tmp_path / "none", tmp_path], [name]) == [str(tmp_path / "sub/a.png")]


def test_the_longest_end_counts_and_one_folder_has_all(tmp_path: Path) -> None:
    _touch(tmp_path, "one/x/a.png", "one/a.png", "two/a.png", "two/b.png")
    assert find_respelled([tmp_path / "one"], ["C:\\x\\a.png"]) == [str(tmp_path / "one/x/a.png")]
    folders = [tmp_path / "one", tmp_path / "two"]
    assert find_respelled(folders, ["\\a.png", "\\b.png"]) == [str(tmp_path / f"two/{n}.png") for n in "ab"]


def test_what_is_not_certain_is_not_found(tmp_path: Path) -> None:
    _touch(tmp_path, "a.png", "b.jpg", "B.jpg")
    assert find_respelled([tmp_path], ["x\\a.png", "y\\a.png"]) is None  # two images, one file
    assert find_respelled([tmp_path], ["b.JPG"]) is None  # one image, two files
    assert find_respelled([tmp_path], ["c.png"]) is None
    assert find_respelled([tmp_path], ["..", "", "\\"]) is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "ascii"])
def test_encodings_that_are_certain(tmp_path: Path, encoding: str) -> None:
    text = "cafe\r\n" if encoding == "ascii" else "café 狗\r\n"
    (tmp_path / "a").write_bytes(text.encode(encoding))
    assert read_text(tmp_path / "a") == text


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le", "utf-16-be"])
def test_encodings_that_are_not(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a").write_bytes("café".encode(encoding))
    with pytest.raises(InputError, match=r"/a: .*not a text in UTF-8; save the file as UTF-8"):
        read_text(tmp_path / "a")


def test_slashes() -> None:
    assert with_slashes("images\\train") == with_slashes("images\train") == "images/train"
