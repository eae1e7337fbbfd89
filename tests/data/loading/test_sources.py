from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.support.video import make_video
from yolo_lightning.data.loading.sources import Sources, find_sources, is_live, list_images
from yolo_lightning.data.loading.video import read_frames
from yolo_lightning.data.module import DetectionDataModule
from yolo_lightning.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.PNG", "clip.mp4", "below/c.jpg", "below/d.mov", "note.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def names(folder: Path, source: str | list[str]) -> tuple[list[str], list[str]]:
    images, streams = find_sources(source)
    return [str(path.relative_to(folder)) for path in images], [Path(path).name for path in streams]


def test_a_folder_gives_images_and_videos(folder: Path) -> None:
    assert names(folder, str(folder)) == (["a.jpg", "b.PNG", "below/c.jpg"], ["d.mov", "clip.mp4"])


def test_patterns_give_files_of_known_suffixes(folder: Path) -> None:
    assert names(folder, str(folder / "*")) == (["a.jpg", "b.PNG"], ["clip.mp4"])
    assert names(folder, str(folder / "**" / "*.jpg"))[0] == ["a.jpg", "below/c.jpg"]
    with pytest.raises(InputError, match="no such image or folder"):
        find_sources(str(folder / "*.md"))


def test_the_working_directory_is_no_part_of_a_pattern(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "[set 1]").mkdir()
    (folder / "[set 1]" / "e.jpg").touch()
    monkeypatch.chdir(folder / "[set 1]")
    assert names(folder, "*.jpg")[0] == ["[set 1]/e.jpg"]


def test_a_file_whose_name_is_a_pattern_is_itself(folder: Path) -> None:
    (folder / "x[1].jpg").touch()
    assert names(folder, str(folder / "x[1].jpg"))[0] == ["x[1].jpg"]


def test_a_list_has_a_path_in_each_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "below" / "list.txt").write_text(f"a.jpg\n\n{folder}/clip.mp4\n")
    monkeypatch.chdir(folder)
    assert names(folder, "below/list.txt") == (["a.jpg"], ["clip.mp4"])
    (folder / "list.txt").write_text("a.jpg\n", encoding="utf-8-sig")  # as Windows writes it
    assert names(folder, "list.txt")[0] == ["a.jpg"]
    (folder / "list.txt").write_text("a.jpg\nhttp://127.0.0.1:1/x.jpg\n")
    with pytest.raises(InputError, match=r"list\.txt: names .*x\.jpg, which does not exist"):
        find_sources("list.txt")  # a list of a stranger makes no connection


def test_cameras_and_addresses_are_streams() -> None:
    streams = ["0", "rtsp://host/live", "rtsp://host/clip.mp4"]
    assert find_sources(streams).streams == streams
    assert [is_live(stream) for stream in streams] == [True, True, False]


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_image_is_fetched(folder: Path, server: str) -> None:
    (folder / "a.jpg").write_bytes(b"pixels")
    (path,) = find_sources(f"{server}/a.jpg?size=large").images
    assert path.name == "a.jpg" and path.read_bytes() == b"pixels" and not path.is_relative_to(folder)
    with pytest.raises(InputError, match=r"none\.jpg: cannot be fetched .*404"):
        find_sources(f"{server}/none.jpg")


def test_a_video_is_fetched_whole(folder: Path, server: str) -> None:
    """This server does not let a decoder jump, as OpenCV must to read an .mp4."""
    make_video(folder / "clip.mp4", 3)
    (source,) = find_sources(f"{server}/clip.mp4").streams
    assert len(list(read_frames(source))) == 3


def test_a_video_is_no_image(folder: Path) -> None:
    with pytest.raises(InputError, match=r"clip\.mp4: is a video or stream"):
        list_images(str(folder / "clip.mp4"))


@pytest.mark.parametrize("given", [0, "0", ["0"], [0]])
def test_the_number_of_a_camera_is_a_source(given: Any) -> None:
    assert DetectionDataModule(predict_source=given).predict_sources == Sources([], ["0"])
