"""Data sets as somebody could make them who means harm: what they must not reach, and what they may."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from tests.support.tiny_data import coco_document, image, write_coco, write_image, write_yolo
from yolo_lightning.data import cache_folder
from yolo_lightning.data.cache_folder import FOLDER
from yolo_lightning.data.images import decode
from yolo_lightning.data.loading.dataset import PredictionDataset
from yolo_lightning.data.loading.sources import list_images
from yolo_lightning.data.module import DetectionDataModule
from yolo_lightning.errors import InputError
from yolo_lightning.system import files

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs links, /dev/shm and named pipes")

PRECIOUS = "precious\n"
LABEL = "0 0.5 0.5 0.2 0.2\n"


class Place:
    """A data set of a stranger, and what lies beside it."""

    def __init__(self, folder: Path) -> None:
        self.data, self.outside, self.home = (folder / name for name in ("set", "outside", "home"))
        self.marker = self.outside / "marker"
        for n in range(2):
            write_image(self.outside / f"pictures/secret{n}.png", seed=n)
        self.marker.write_text(PRECIOUS)
        (self.outside / "secret.txt").write_text("root:x:0:0:root:/root:/bin/bash\n")

    def module(self, root: Path | None = None, **options: Any) -> DetectionDataModule:
        options = {"image_size": 32, "batch_size": 2, "cache": "none", **options}
        return DetectionDataModule(root=str(root or self.data), **options)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    made = Place(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(made.home))
    monkeypatch.delenv("YOLO_LIGHTNING_CACHE", raising=False)
    before = sorted(made.outside.rglob("*"))
    yield made
    assert made.marker.read_text() == PRECIOUS
    assert sorted(made.outside.rglob("*")) == before
    with suppress(InputError):
        shutil.rmtree(cache_folder.cache_folder(made.data, "ram"), ignore_errors=True)


def yolo(place: Place, **more: Any) -> Path:
    write_yolo(place.data, {"v": LABEL}, split="val")
    return write_yolo(place.data, {"a": LABEL, "b": LABEL}, **more)


def coco(place: Place, *names: str) -> None:
    write_coco(place.data, coco_document(), split="val")
    document = coco_document()
    write_coco(place.data, document)
    document["images"] += [image(20 + n, name) for n, name in enumerate(names)]
    (place.data / "annotations/instances_train.json").write_text(json.dumps(document))


# Paths in annotations


def entry(key: str, value: Any) -> Callable[[Place], object]:
    def make(place: Place) -> None:
        yolo(place, **{key: str(value).replace("OUT", str(place.outside))})

    return make


def listing(line: str, name: str = "train.txt") -> Callable[[Place], object]:
    def make(place: Place) -> None:
        yolo(place, train=name)
        (place.data / name).write_text(f"images/train/a.png\n{line.replace('OUT', str(place.outside))}\n")

    return make


def named(name: str) -> Callable[[Place], object]:
    return lambda place: coco(place, name.replace("OUT", str(place.outside)))


def linked(
    path: str, target: str, make: Callable[..., object] = yolo, **more: Any
) -> Callable[[Place], object]:
    """A link ``path`` in the data set, in the place of whatever may be there."""

    def link(place: Place) -> None:
        make(place, **more)
        at = place.data / path
        if at.is_dir() and not at.is_symlink():
            at.rename(at.with_name(f"{at.name}.was"))
        at.unlink(missing_ok=True)
        at.symlink_to(target.replace("OUT", str(place.outside)))

    return link


OUTSIDE: dict[str, Callable[[Place], object]] = {
    "COCO: dots": named("../../../outside/pictures/secret0.png"),
    "COCO: dots after a folder": named("x/../../../../outside/pictures/secret0.png"),
    "COCO: absolute": named("OUT/pictures/secret0.png"),
    "COCO: no image at all": named("OUT/secret.txt"),
    "COCO: an image is a link": linked("images/train/a.png", "OUT/pictures/secret0.png", coco),
    "COCO: an image is a relative link": linked("images/train/a.png", "../../../outside/marker", coco),
    "COCO: an image is a device": linked("images/train/a.png", "/dev/zero", coco),
    "YOLO: train has dots": entry("train", "../outside/pictures"),
    "YOLO: train is absolute": entry("train", "OUT/pictures"),
    "YOLO: train is a list of folders": lambda place: yolo(
        place, train=["images/train", str(place.outside / "pictures")]
    ),
    "YOLO: train is a text elsewhere": entry("train", "OUT/secret.txt"),
    "YOLO: path is absolute": lambda place: yolo(place, path=str(place.outside), train="pictures"),
    "YOLO: path has dots": lambda place: yolo(place, path="../outside", train="pictures/../pictures"),
    "YOLO: a list has dots": listing("../outside/pictures/secret0.png"),
    "YOLO: a list has an absolute path": listing("OUT/pictures/secret0.png"),
    "YOLO: the list is a link": linked("train.txt", "OUT/secret.txt", yolo, train="train.txt"),
    "YOLO: an image is a link": linked("images/train/a.png", "OUT/pictures/secret0.png"),
    "YOLO: an image is a link to a link": lambda place: (
        linked("two", "OUT/pictures/secret0.png")(place),
        (place.data / "images/train/c.png").symlink_to("../../two"),
    ),
    "YOLO: the folder is a link": linked("images/train", "OUT/pictures"),
    "YOLO: a folder in it is a link": linked("images/train/more", "OUT/pictures"),
    "YOLO: a folder in it is a whole disk but ours": linked("images/train/more", "/proc"),
    "YOLO: labels are a link": linked("labels/train/a.txt", "OUT/secret.txt"),
    "YOLO: labels are a device": linked("labels/train/a.txt", "/dev/zero"),
    "YOLO: the folder of labels is a link": linked("labels", "OUT"),
    "YOLO: labels are a named pipe": lambda place: (
        yolo(place),
        (place.data / "labels/train/a.txt").unlink(),
        os.mkfifo(place.data / "labels/train/a.txt"),
    ),
    "YOLO: an image is a named pipe": lambda place: (
        yolo(place), os.mkfifo(place.data / "images/train/c.png")
    ),
    "COCO: an image is a named pipe": lambda place: (
        coco(place, "pipe.png"), os.mkfifo(place.data / "images/train/pipe.png")
    ),
}  # fmt: skip


@pytest.mark.parametrize("cache", ["none", "disk"])
@pytest.mark.parametrize("make", OUTSIDE.values(), ids=OUTSIDE)
def test_nothing_outside_is_read(
    place: Place, make: Callable[[Place], object], cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(place.outside.rglob("*"))
    make(place)

    def read(*_: object) -> None:
        raise AssertionError("an image was read")

    monkeypatch.setattr(decode, "_open", read)
    with pytest.raises(
        InputError, match=r"no file in \S+/set.*--data\.allow_outside true|is no file, but"
    ) as error:
        place.module(cache=cache).build_indices("fit")
    assert "root:x" not in str(error.value)
    assert "\n" not in str(error.value) and sorted(place.outside.rglob("*")) == before


def test_it_is_read_if_allowed_and_the_cache_forgets_that(place: Place) -> None:
    coco(place, "../../../outside/pictures/secret0.png")
    for _ in range(2):
        module = place.module(cache="disk", allow_outside=True)
        assert len(module.index("train")) == 4
    assert module.index("train").from_cache
    with pytest.raises(InputError, match="allow_outside"):
        place.module(cache="disk").index("train")


def test_a_link_that_comes_after_the_cache_is_seen(place: Place) -> None:
    coco(place)
    place.module(cache="disk").index("train")
    linked("images/train/a.png", "OUT/pictures/secret0.png", lambda _: None)(place)
    with pytest.raises(InputError, match="allow_outside"):
        place.module(cache="disk").index("train")


@pytest.mark.parametrize("form", [yolo, coco])
def test_a_root_that_is_a_link_or_below_one_is_as_any_other(
    place: Place, form: Callable[[Place], object], tmp_path: Path
) -> None:
    form(place)
    (tmp_path / "link").symlink_to("set")
    (tmp_path / "above").symlink_to(tmp_path)
    expected = len(place.module().index("train"))
    for root in (tmp_path / "link", tmp_path / "above/set", tmp_path / "above/link"):
        for cache in ("none", "disk", "disk"):
            module = place.module(root, cache=cache)
            module.build_indices("fit")
            assert len(module.index("train")) == expected


def test_paths_within_the_root_and_folders_that_were_named_are_read(place: Place) -> None:
    coco(place, "../val/b.png", str(place.data / "images/val/b.png"))
    (place.data / "images/train/link.png").symlink_to("../val/c.png")
    assert len(place.module().index("train")) == 5
    coco(place)
    (place.data / "images/train/link.png").unlink()
    (place.data / "images/train").rename(place.data.parent / "elsewhere")
    (place.data / "images/train").symlink_to("../../elsewhere")
    with pytest.raises(InputError, match="allow_outside"):
        place.module().index("train")
    assert len(place.module(train_images=str(place.data / "images/train")).index("train")) == 3


def test_a_data_yaml_that_was_named_names_its_path(place: Place) -> None:
    write_yolo(place.data, {"a": LABEL})
    other = place.data.parent / "other.yaml"
    other.write_text(yaml.safe_dump({"path": str(place.data), "train": "images/train", "names": ["cat"]}))
    assert len(place.module(other).index("train")) == 1
    other.write_text(yaml.safe_dump({"path": "set", "train": "../../outside/pictures", "names": ["cat"]}))
    (place.data.parent / "sub").mkdir()
    moved = other.rename(place.data.parent / "sub/other.yaml")
    moved.write_text(yaml.safe_dump({"path": "../set", "train": "../outside/pictures", "names": ["cat"]}))
    with pytest.raises(InputError, match="allow_outside"):
        place.module(moved).index("train")


def test_the_labels_of_a_named_folder_lie_beside_it(place: Place) -> None:
    yolo(place)
    write_yolo(place.data.parent / "more", {"x": LABEL})
    module = place.module(train_images=str(place.data.parent / "more/images/train"))
    assert len(module.index("train").boxes) == 1


@pytest.mark.parametrize(
    "links",
    [
        {"images/train/train": "../train"},
        {"images/train/up": "../.."},
        {"images/train/loop": "loop"},
        {"images/train/disk": "/"},
        {"images/train/x": "y", "images/train/y": "x"},
        {"images/train/maze": "../../maze"}
        | {f"maze/{a}/{b}": f"../{b}" for a in range(9) for b in range(9) if a != b},
    ],
    ids=["to itself", "up", "to nothing", "to the disk", "to each other", "a maze"],
)  # fmt: skip
def test_links_that_lead_back_are_not_followed(place: Place, links: dict[str, str]) -> None:
    yolo(place)
    for link, target in links.items():
        (place.data / link).parent.mkdir(parents=True, exist_ok=True)
        (place.data / link).symlink_to(target)
    module = place.module()
    module.build_indices("fit")
    assert (len(module.index("train")), len(module.index("val"))) == (2, 1)
    assert len(list_images(str(place.data))) == 3


def test_a_link_to_a_folder_within_is_followed(place: Place) -> None:
    yolo(place)
    write_image(place.data / "more/c.png")
    (place.data / "images/train/more").symlink_to("../../more")
    assert [path.name for path in list_images(str(place.data))] == ["a.png", "b.png", "v.png", "c.png"]
    assert len(place.module().index("train")) == 3


def test_leftovers_of_systems_are_no_images(place: Place) -> None:
    yolo(place)
    for name in (".Trash-1000/files/x.png", ".ipynb_checkpoints/x.png", "@eaDir/a.png/THUMB.jpg", "._a.png"):
        write_image(place.data / f"images/train/{name}")
    write_image(place.data / "images/train/sub/@eaDir/x.png")
    assert [path.name for path in list_images(str(place.data / "images/train"))] == ["a.png", "b.png"]
    assert len(place.module().index("train")) == 2


def test_what_to_predict_on_stays_in_its_folder(place: Place) -> None:
    yolo(place)
    (place.data / "images/train/c.png").symlink_to(place.outside / "pictures/secret0.png")
    with pytest.raises(InputError, match="allow_outside"):
        _ = place.module(predict_source=str(place.data)).predict_sources.images
    assert len(place.module(predict_source=str(place.data), allow_outside=True).predict_sources.images) == 4
    assert (
        len(place.module(predict_source=str(place.data / "images/train/c.png")).predict_sources.images) == 1
    )


# Caches


def cache_link(name: str, target: str = "OUT/marker") -> Callable[[Place], object]:
    def make(place: Place) -> None:
        (place.data / FOLDER).mkdir()
        (place.data / FOLDER / name).symlink_to(target.replace("OUT", str(place.outside)))

    return make


def kept_links(place: Place) -> None:
    """A whole cache, each file of which became a link to one of its size."""
    place.module(cache="disk").prepare("fit")
    for file in (place.data / FOLDER).iterdir():
        copy = place.data.parent / f"copy_{file.name}"
        file.rename(copy)
        file.symlink_to(copy)


def of_home(name: str) -> Callable[[Place], object]:
    def make(place: Place) -> None:
        (place.home / name).parent.mkdir(parents=True)
        (place.home / name).symlink_to(place.outside if name == "yolo_lightning" else place.marker)

    return make


CACHES: dict[str, Callable[[Place], object]] = {
    "the folder is a link": lambda place: (place.data / FOLDER).symlink_to(place.outside),
    "the folder is a link to nothing": lambda place: (place.data / FOLDER).symlink_to(place.outside / "new"),
    "the lock is a link": cache_link("lock"),
    "the lock of the index is a link": cache_link("index.lock"),
    "a lock is a link to nothing": cache_link("index.lock", "OUT/new"),
    "a lock is a named pipe": lambda place: (
        (place.data / FOLDER).mkdir(), os.mkfifo(place.data / FOLDER / "index.lock")
    ),
    "all is links": kept_links,
    "the user's folder is a link": of_home("yolo_lightning"),
    "the secret is a link": of_home("yolo_lightning/secret"),
}  # fmt: skip


@pytest.mark.parametrize("cache", ["auto", "disk", "ram"])
@pytest.mark.parametrize("make", CACHES.values(), ids=CACHES)
def test_no_cache_follows_a_link(place: Place, make: Callable[[Place], object], cache: str) -> None:
    yolo(place)
    make(place)
    module = place.module(cache=cache)
    try:
        module.prepare("fit")
    except InputError as error:
        assert cache != "auto" and "YOLO_LIGHTNING_CACHE" in str(error) and "\n" not in str(error)
        module = place.module()
        module.prepare("fit")
    assert len(module.index("train")) == 2 and next(iter(module.train_dataloader())).images.any()


def test_a_temporary_file_that_is_there_is_not_followed(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def guessed(_: Path) -> Path:
        temporary = tmp_path / ".guessed.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(place.marker)
        return temporary

    monkeypatch.setattr(files, "temporary_name", guessed)
    with pytest.raises(FileExistsError):
        files.write_whole(tmp_path / "report", "new")
    yolo(place)
    with pytest.raises(InputError, match="cannot be written"):
        place.module(cache="disk").prepare("fit")


def test_a_cache_that_is_not_kept_is_said(place: Place) -> None:
    yolo(place)
    (place.data / FOLDER).symlink_to(place.outside)
    index = place.module(cache="auto").index("train")
    assert any("nothing is cached here" in str(finding) for finding in index.findings)


@pytest.mark.skipif(os.getuid() != 0, reason="needs another user")
def test_the_folder_of_another_user_is_left_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    yolo(place)
    (place.data / FOLDER).mkdir()
    os.chown(place.data / FOLDER, 12345, 12345)
    place.module(cache="disk").prepare("fit")
    assert not list((place.data / FOLDER).iterdir()) and list((place.home / "yolo_lightning").glob("*.uint8"))
    everybodys = place.data.parent / "scratch"
    everybodys.mkdir()
    os.chown(everybodys, 12345, 12345)
    monkeypatch.setenv("YOLO_LIGHTNING_CACHE", str(everybodys))
    place.module(cache="disk").prepare("fit")
    assert [file.name for file in everybodys.iterdir()] == ["yolo_lightning_0"]
    os.chown(everybodys / "yolo_lightning_0", 12345, 12345)
    write_image(place.data / "images/train/c.png")
    with pytest.raises(InputError, match="another user's"):
        place.module(cache="disk").prepare("fit")


def test_names_in_shared_memory_are_secret_and_one_users_processes_agree(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = cache_folder.cache_folder(place.data, "ram")
    secret = place.home / "yolo_lightning/secret"
    assert secret.stat().st_mode & 0o777 == 0o600 and len(secret.read_bytes()) == 32
    assert secret.parent.stat().st_mode & 0o777 == 0o700
    cache_folder._secret.cache_clear()
    assert cache_folder.cache_folder(place.data, "ram") == name
    monkeypatch.setenv("XDG_CACHE_HOME", str(place.home / "another"))
    assert cache_folder.cache_folder(place.data, "ram") != name
    assert secret.read_bytes().hex()[:8] not in name.name


def test_shared_memory_that_somebody_took_is_not_used(place: Place, tmp_path: Path) -> None:
    yolo(place)
    folder = cache_folder.cache_folder(place.data, "ram")
    folder.symlink_to(place.outside)
    try:
        with pytest.raises(InputError, match="nothing is cached here"):
            place.module(cache="ram").prepare("fit")
    finally:
        folder.unlink()


def forged(fields: dict[str, Any], save: Callable[..., None] = np.savez) -> bytes:
    file = BytesIO()
    save(file, **fields)
    return file.getvalue()


def aimed(fields: dict[str, Any], place: Place) -> dict[str, Any]:
    path = os.fsencode(place.outside / "pictures/secret0.png")
    return {
        **fields,
        "path_bytes": np.frombuffer(2 * path, np.uint8),
        "path_offsets": np.array([0, len(path), 2 * len(path)]),
    }


FORGED: dict[str, Callable[[dict[str, Any], Place], bytes]] = {
    "paths": lambda fields, place: forged(aimed(fields, place)),
    "paths, signed by another": lambda fields, place: forged(aimed(fields, place)) + os.urandom(32),
    "sizes": lambda fields, _: forged({**fields, "sizes": fields["sizes"] + 2**30}),
    "offsets": lambda fields, _: forged({**fields, "offsets": fields["offsets"] + 2**40}),
    "offsets of paths": lambda fields, _: forged({**fields, "path_offsets": fields["path_offsets"] - 9}),
    "counts": lambda fields, _: forged({**fields, "boxes": np.zeros((1, 4))}),
    "a bomb": lambda fields, _: forged({**fields, "x": np.zeros(1 << 27, np.uint8)}, np.savez_compressed),
    "a huge header": lambda _, __: forged({"boxes": np.zeros(4)}).replace(
        b"(4,)" + b" " * 12, b"(4000000000000,)"
    ),
    "nothing": lambda _, __: b"",
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED)
def test_a_forged_index_is_read_anew(
    place: Place, forge: Callable[[dict[str, Any], Place], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    yolo(place)
    place.module(cache="disk").index("train")
    (path,) = (place.data / FOLDER).glob("*.npz")
    whole = path.read_bytes()
    with np.load(path) as file:
        fields = {name: file[name] for name in file.files}
    path.write_bytes(forge(fields, place))
    parsed: list[object] = []
    monkeypatch.setattr(np, "load", lambda *_, **__: parsed.append(_))
    index = place.module(cache="disk").index("train")
    assert not parsed and not index.from_cache  # not even looked at
    assert [index.path(i).name for i in range(2)] == ["a.png", "b.png"]
    assert path.read_bytes() == whole


def test_pixels_of_a_stranger_are_not_found(place: Place) -> None:
    """Times that an archive keeps do not decide the name, or the archive could hold the file."""
    yolo(place)
    place.module(cache="disk").prepare("fit")
    before = {file.name for file in (place.data / FOLDER).glob("*.uint8")}
    for path in place.data.rglob("*.png"):
        status, contents = path.stat(), path.read_bytes()
        path.unlink()
        path.write_bytes(contents)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    place.module(cache="disk").prepare("fit")
    assert before.isdisjoint(file.name for file in (place.data / FOLDER).glob("*.uint8"))


# Decoders


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG whose header is followed by a few zeros."""
    header = struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, 1, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    chunk = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk)


def saved(form: str, size: tuple[int, int] = (60, 40), **options: Any) -> bytes:
    file = BytesIO()
    Image.new("RGB", size).save(file, form, **options)
    return file.getvalue()


def jpeg(width: int, height: int) -> bytes:
    data, at = saved("JPEG"), saved("JPEG").index(b"\xff\xc0")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def bmp(width: int, height: int) -> bytes:
    data = saved("BMP")
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


def gif(width: int, height: int) -> bytes:
    data = saved("GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def tiff(width: int, height: int) -> bytes:
    tags = [
        (256, width),
        (257, height),
        (258, 8),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, 9),
    ]
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags
    ) + bytes(64)  # fmt: skip


BOMBS: dict[str, bytes] = {
    "PNG": png(50_000, 50_000),
    "PNG, a little too large": png(16_001, 16_000),
    "PNG, wide": png(300_000_001, 1),
    "PNG, 2^31": png(2**31 - 1, 2**31 - 1),
    "JPEG": jpeg(65_500, 65_500),
    "BMP": bmp(40_000, 40_000),
    "BMP, upside down": bmp(40_000, -40_000),
    "GIF": gif(65_535, 65_535),
    "TIFF": tiff(100_000, 100_000),
    "TIFF, 2^32": tiff(2**32 - 1, 2**32 - 1),
}


@pytest.fixture
def undecoded(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Refuse to decode the ``data`` of the test; the sound images beside it may be."""
    decode_with_opencv = cv2.imdecode

    def decoded(*_: object) -> None:
        raise AssertionError("it was decoded")

    def decoded_by_opencv(buffer: Any, flags: int) -> Any:
        return decode_with_opencv(buffer, flags) if bytes(buffer) != data else decoded()

    monkeypatch.setattr(cv2, "imdecode", decoded_by_opencv)
    monkeypatch.setattr(Image.Image, "load", decoded)


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
@pytest.mark.usefixtures("undecoded")
def test_a_bomb_is_refused_by_its_header(place: Place, data: bytes) -> None:
    yolo(place)
    bomb = place.data / "images/train/bomb.png"
    bomb.write_bytes(data)
    refused = (
        r"^\S+/bomb\.png: (the image is \d+ x \d+ px, more than data\.max_megapixels 256; .*|not a reada.*)$"
    )
    with pytest.raises(InputError, match=refused):
        place.module(cache="none").build_indices("fit")
    assert not PredictionDataset([bomb], (32, 32))[0].original_size.any()  # left out
    with pytest.raises(InputError, match=refused):
        decode.read_rgb(bomb)


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
@pytest.mark.usefixtures("undecoded")
def test_annotations_cannot_call_a_bomb_small(place: Place, data: bytes) -> None:
    coco(place)
    (place.data / "images/train/a.png").write_bytes(data)
    with pytest.raises(
        InputError, match=r"a\.png: (the image is \d+ x \d+ px but its ann|not a readable image)"
    ):
        place.module(cache="disk").prepare("fit")


def test_annotations_of_a_huge_image_are_refused(place: Place) -> None:
    document = coco_document()
    write_coco(place.data, document, split="val")
    write_coco(place.data, document)
    document["images"][0] |= {"width": 2**31 - 1, "height": 2**31 - 1}
    (place.data / "annotations/instances_train.json").write_text(json.dumps(document))
    with pytest.raises(
        InputError,
        match=r"b\.png: the image is 60 x 40 px but its annotations say 2147483647 x 2147483647 px",
    ):
        place.module().index("train")


@pytest.mark.parametrize("limit", [0, 1074])
def test_the_limit_is_one_that_opencv_keeps(place: Place, limit: int) -> None:
    with pytest.raises(InputError, match=r"data\.max_megapixels .*; use 1 to 1073"):
        place.module(max_megapixels=limit)


def test_a_large_sound_image_is_read(place: Place, recwarn: pytest.WarningsRecorder) -> None:
    """14,000 px a side, more than Pillow opens, and one beyond the limit as far as that is raised."""
    yolo(place)
    large = np.zeros((14_000, 14_000), np.uint8)
    assert cv2.imwrite(str(place.data / "images/train/b.png"), large)
    del large
    before = Image.MAX_IMAGE_PIXELS
    index = place.module().index("train")
    assert index.sizes.max() == 14_000 and before == Image.MAX_IMAGE_PIXELS and not recwarn.list
    with pytest.raises(InputError, match=r"more than data\.max_megapixels 195; shrink"):
        place.module(max_megapixels=195).index("train")
    (place.data / "images/train/b.png").write_bytes(png(16_001, 16_000))
    assert place.module(max_megapixels=257).index("train").sizes.max() == 16_001


SMALL: dict[str, bytes] = {
    "a TIFF of many pages": saved("TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))] * 200),
    "a WebP of many frames": saved(
        "WEBP", save_all=True, append_images=[Image.new("RGB", (60, 40), (n, 0, 0)) for n in range(50)]
    ),
}
if re.search(r"GIF: +YES", cv2.getBuildInformation()):  # OpenCV 4.11 has none
    SMALL["a GIF of many frames"] = saved(
        "GIF", save_all=True, append_images=[Image.new("RGB", (60, 40), (n % 256, 0, 0)) for n in range(500)]
    )


@pytest.mark.parametrize("data", SMALL.values(), ids=SMALL)
def test_only_the_first_frame_is_read(place: Place, data: bytes) -> None:
    yolo(place)
    (place.data / "images/train/b.png").write_bytes(data)
    index = place.module().index("train")
    assert decode.read_rgb(index.path(1), tuple(index.sizes[1])).shape == (40, 60, 3)


BROKEN: dict[str, bytes] = {
    "compressed text": png(60, 40, (b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 27)))),
    "no size": png(0, 0),
    "BMP with a header of 2^31": b"BM" + bytes(12) + struct.pack("<I", 2**31 - 1) + bytes(40),
    "TIFF whose directory is itself": b"II*\0\x04\0\0\0" + bytes(40),
    "TIFF of 65,535 tags": b"II*\0\x08\0\0\0\xff\xff" + bytes(99),
    "BigTIFF of 2^63 tags": b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) + b"\xff" * 60,
    "JPEG whose EXIF is cut": b"\xff\xd8\xff\xe1\x00\x10Exif\0\0II*\0\xff\xff\xff\xff\xff\xd9",
    "WebP without chunks": b"RIFF\xff\xff\xff\xffWEBPVP8X",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n(/etc/passwd) run\n",
    "an archive": b"PK\x03\x04" + bytes(60),
    "no bytes": b"",
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
@pytest.mark.usefixtures("undecoded")
def test_an_absurd_header_is_one_sentence(place: Place, data: bytes) -> None:
    yolo(place)
    (place.data / "images/train/b.png").write_bytes(data)
    refused = r"^\S+/b\.png: (not a readable image|the file is empty); replace or remove it$"
    with pytest.raises(InputError, match=refused):
        place.module().index("train")
