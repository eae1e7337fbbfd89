from __future__ import annotations

import io
import os
import re
import shutil
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from yolo_lightning.cli.launcher import DryCLI, launch
from yolo_lightning.errors import InputError
from yolo_lightning.inference import official_weights
from yolo_lightning.inference.official_weights import ADDRESSES, fetch_official_weights
from yolo_lightning.inference.trained_model import load_network
from yolo_lightning.model.network import build_network


class Releases(ThreadingHTTPServer):
    """A server of release files, which redirects as GitHub does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []  # path and range of each request of a file
        self.cut_after: int | None = None  # bytes after which the next answer breaks off
        self.knows_ranges = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Releases

    def do_GET(self) -> None:
        server = self.server
        if not self.path.startswith("/stored/"):
            self.send_response(302)
            self.send_header("Location", f"{server.address}/stored{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        wanted = self.headers.get("Range")
        server.asked.append((self.path, wanted))
        contents = server.files.get(self.path.removeprefix("/stored/"))
        first = int(re.findall(r"\d+", wanted)[0]) if wanted and server.knows_ranges else 0
        if contents is None or first >= len(contents):
            self.send_error(404 if contents is None else 416)
            return
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(contents) - first))
        self.end_headers()
        end, server.cut_after = server.cut_after, None
        self.wfile.write(contents[first:end])

    def log_message(self, *_: object) -> None:
        pass


def saved(name: str) -> bytes:
    torch.manual_seed(0)
    file = io.BytesIO()
    torch.save({key: value.half() for key, value in build_network(name, 80).state_dict().items()}, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def classic() -> bytes:
    """What the release has as yolov5n.pt."""
    return saved("yolov5n")


@pytest.fixture
def releases(classic: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Releases]:
    monkeypatch.setenv("XDG_CACHE_HOME", os.fspath(tmp_path / "cache"))
    with Releases() as server:
        server.files["classic/yolov5n.pt"] = classic
        for kind in ADDRESSES:
            monkeypatch.setitem(ADDRESSES, kind, f"{server.address}/{kind}")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def test_official_addresses() -> None:
    """The tags are those of the peers: yolov5's utils/downloads.py and ultralytics' utils/downloads.py."""
    assert ADDRESSES["classic"].endswith("github.com/ultralytics/yolov5/releases/download/v7.0")
    assert ADDRESSES["u"].endswith("github.com/ultralytics/assets/releases/download/v8.4.0")


def test_weights_are_fetched_once(
    releases: Releases, classic: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = fetch_official_weights("yolov5n")
    assert path == tmp_path / "cache" / "yolo_lightning" / "weights" / "yolov5n.pt"
    assert path.read_bytes() == classic
    assert f"official weights of {releases.address}/classic/yolov5n.pt, kept as {path}" in caplog.text
    assert not list(path.parent.glob("*.part"))
    assert fetch_official_weights("yolov5n") == path and len(releases.asked) == 1
    network, facts, name = load_network("yolov5n")
    assert name == "yolov5n" and len(facts.class_names) == 80 and len(releases.asked) == 1
    assert torch.equal(network.state_dict()["model.24.anchors"][0, 0], torch.tensor([1.25, 1.625]))


def test_weights_of_the_u_models_have_an_address_of_their_own(releases: Releases) -> None:
    releases.files["u/yolov5nu.pt"] = saved("yolov5nu")
    assert fetch_official_weights("yolov5nu").read_bytes() == releases.files["u/yolov5nu.pt"]
    assert releases.asked == [("/stored/u/yolov5nu.pt", None)]


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_download_that_broke_off_is_resumed(releases: Releases, classic: bytes, knows_ranges: bool) -> None:
    releases.cut_after, releases.knows_ranges = 1_000_000, knows_ranges
    with pytest.raises(
        InputError, match=r"yolov5n\.pt: cannot be fetched \(the connection ended after 1,000"
    ):
        fetch_official_weights("yolov5n")
    assert fetch_official_weights("yolov5n").read_bytes() == classic
    assert [range_ for _, range_ in releases.asked] == [None, "bytes=1000000-"]


def test_a_program_killed_after_the_last_byte_has_all_of_it(releases: Releases, classic: bytes) -> None:
    with pytest.raises(InputError, match="404"):
        fetch_official_weights("yolov5s")
    folder = Path(os.environ["XDG_CACHE_HOME"]) / "yolo_lightning" / "weights"
    (folder / "yolov5n.pt.part").write_bytes(classic)
    assert fetch_official_weights("yolov5n").read_bytes() == classic


def test_of_several_processes_one_fetches(releases: Releases) -> None:
    """A lock of a file holds between threads as between processes."""
    with ThreadPoolExecutor(4) as threads:
        paths = {path for path in threads.map(fetch_official_weights, ["yolov5n"] * 4)}
    assert len(paths) == 1 and len(releases.asked) == 1


def damaged(contents: bytes) -> bytes:
    """The same archive with one wrong bit in its largest tensor."""
    with zipfile.ZipFile(io.BytesIO(contents)) as archive:
        record = max(archive.infolist(), key=lambda info: info.file_size)
    place = record.header_offset + record.file_size // 2
    return contents[:place] + bytes([contents[place] ^ 1]) + contents[place + 1 :]


@pytest.mark.parametrize("wrong", ["bit", "model", "page"])
def test_another_file_is_refused_and_removed(releases: Releases, classic: bytes, wrong: str) -> None:
    name = "yolov5s" if wrong == "model" else "yolov5n"
    contents = {"bit": damaged(classic), "model": classic, "page": b"<html>log in first</html>"}[wrong]
    releases.files[f"classic/{name}.pt"] = contents
    reason = {"bit": "a checksum is wrong", "model": "it is of another model", "page": "not a zip"}[wrong]
    with pytest.raises(InputError, match=rf"{name}\.pt: what was fetched is not {name} \(.*{reason}"):
        fetch_official_weights(name)
    releases.files[f"classic/{name}.pt"] = saved(name) if wrong == "model" else classic
    assert fetch_official_weights(name).is_file()
    assert releases.asked[-1][1] is None  # the next start fetches all of it


def test_offline_says_where_the_file_goes(
    releases: Releases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ADDRESSES, "classic", "http://127.0.0.1:9/none")
    place = tmp_path / "cache" / "yolo_lightning" / "weights" / "yolov5n.pt"
    with pytest.raises(InputError) as error:
        fetch_official_weights("yolov5n")
    assert "http://127.0.0.1:9/none/yolov5n.pt: cannot be fetched (urlopen error" in str(error.value)
    assert f"fetch it elsewhere and save it as {place}" in str(error.value)


def test_fit_takes_a_name(releases: Releases, shapes: Path, tmp_path: Path) -> None:
    options = f"fit --data.root={shapes} --runs_dir={tmp_path} --data.image_size=64 --trainer.accelerator=cpu"
    with pytest.raises(InputError, match=r"weights yolov5s does not fit model\.architecture yolov5n; give"):
        launch(DryCLI, [*options.split(), "--model.weights=yolov5s"])
    assert not releases.asked
    cli = launch(DryCLI, [*options.split(), "--model.weights=yolov5n"])
    assert cli.model.weights == str(fetch_official_weights("yolov5n")) and len(releases.asked) == 1


def test_the_official_file_passes_the_check(tmp_path: Path) -> None:
    official = Path(__file__).parents[3] / "shared" / "weights" / "yolov5n.pt"
    if not official.exists():
        pytest.skip("the official file is not on this machine")
    copy = Path(shutil.copy(official, tmp_path))
    official_weights._refuse_another_file("yolov5n", "here", copy)
    assert copy.exists()
