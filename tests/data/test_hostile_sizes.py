"""Data sets that would fill the memory, wait for ever, or write to the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.test_hostile import LABEL, Place, coco, yolo
from tests.data.test_hostile import place as place
from tests.support.tiny_data import coco_document, write_coco, write_yolo
from yolo_lightning.data.annotations.summary import summarise
from yolo_lightning.data.images import decode
from yolo_lightning.errors import InputError

JSON, LABELS, YAML = "annotations/instances_train.json", "labels/train/a.txt", "data.yaml"
ALIASES = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 9)}]" for n in range(12))
Make = Callable[[Place], object]


def sparse(path: str) -> Make:
    """A file with a hole: it takes no room on the disk, and would fill the memory."""

    def make(place: Place) -> None:
        (coco if path == JSON else yolo)(place)
        os.truncate(place.data / path, 20 << 30)

    return make


def no_file(path: str, put: Callable[[Path], object]) -> Make:
    def make(place: Place) -> None:
        (coco if path == JSON else yolo)(place)
        (place.data / path).unlink()
        put(place.data / path)

    return make


def text(path: str, content: str) -> Make:
    return no_file(path, lambda file: file.write_text(content))


FILLING: dict[str, tuple[Make, str]] = {
    "annotations of 20 GB": (sparse(JSON), "more than 8 GiB"),
    "labels of 20 GB": (sparse(LABELS), "more than 256 MiB"),
    "a data.yaml of 20 GB": (sparse(YAML), "more than 256 MiB"),
    "annotations are a named pipe": (no_file(JSON, os.mkfifo), "no train split"),
    "annotations are a device": (no_file(JSON, lambda path: path.symlink_to("/dev/zero")), "no train split"),
    "a data.yaml is a named pipe": (no_file(YAML, os.mkfifo), "add classes.txt"),
    "another YAML is a named pipe": (
        no_file(YAML, lambda path: os.mkfifo(path.with_name("other.yaml"))), "add classes.txt"
    ),
    "brackets": (text(JSON, "[" * 1_000_000), "nested too deeply"),
    "brackets within": (text(JSON, '{"info": ' + "[" * 100_000 + "}"), "nested too deeply"),
    "braces": (text(JSON, '{"a":' * 100_000), "nested too deeply"),
    "a number of 5,000 digits": (text(JSON, '{"a": ' + "9" * 5000 + "}"), "a number is too long"),
    "lists in a YAML": (text(YAML, "- " * 5000 + "a"), "nested too deeply"),
    "a number beyond all characters": (text(YAML, 'names: ["\\U00A10000"]'), "broken YAML .* write /"),
    "a number beyond 32 bits of sign": (text(YAML, 'names: ["\\UFFFFFFFF"]'), "broken YAML .* write /"),
    "aliases as a split": (text(YAML, f"{ALIASES}\ntrain: *a11\nnames: [cat]"), "aliases"),
    "aliases as a number": (text(YAML, f"{ALIASES}\ntrain: images/train\nnames: [cat]\nnc: *a11"), "aliases"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILLING)
def test_no_file_fills_the_memory_or_waits_for_ever(place: Place, name: str) -> None:
    make, said = FILLING[name]
    make(place)
    with pytest.raises(InputError, match=said):
        place.module().index("train")


@pytest.mark.parametrize("put", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_labels_that_are_no_file_are_not_opened_even_if_they_may_lie_outside(
    place: Place, put: Callable[[Path], object]
) -> None:
    no_file(LABELS, put)(place)
    with pytest.raises(InputError, match=r"a\.txt: cannot be read \(.*it is no file\)"):
        place.module(allow_outside=True).index("train")


def test_an_image_of_gigabytes_is_not_read(place: Place) -> None:
    sparse("images/train/a.png")(place)
    with pytest.raises(InputError, match="more than 2 GiB"):
        decode.read_rgb(place.data / "images/train/a.png")


def test_classes_beyond_number_are_refused(place: Place) -> None:
    document = coco_document()
    document["categories"] += [{"id": n, "name": str(n)} for n in range(1000, 101_000)]
    for split in ("train", "val"):
        write_coco(place.data, document, split=split)
    with pytest.raises(InputError, match="the data set has 100,002 classes; use at most 100,000"):
        _ = place.module().class_names


@pytest.mark.parametrize("number", [0, 3, -1, 10**6])
def test_a_number_in_the_place_of_an_annotation_is_none(place: Place, number: int) -> None:
    """Annotations become numbers while they are read, and a number in the file must not be taken for one."""
    document = coco_document()
    write_coco(place.data, document)
    document["annotations"].append(number)
    (place.data / JSON).write_text(json.dumps(document))
    with pytest.raises(InputError, match="annotation 6 lacks image_id"):
        place.module().index("train")


@pytest.mark.parametrize("bbox", [[1e39, 0, 5, 5], [0, 0, 1e300, 5], [0, 0, 5, float("inf")]])
def test_a_box_beyond_single_precision_is_refused(place: Place, bbox: list[float]) -> None:
    document = coco_document()
    write_coco(place.data, document)
    document["annotations"][0]["bbox"] = bbox
    (place.data / JSON).write_text(json.dumps(document))
    with pytest.raises(InputError, match="annotation 100 needs ids, a number as area, and four numbers"):
        place.module().index("train")


def test_no_name_is_a_command_to_the_terminal(place: Place) -> None:
    write_yolo(place.data, {"a": LABEL}, names=["\x1b]0;owned\x07\x1b[31mcat", "a\nerror: all is well"])
    lines = summarise(place.module().index("train")).splitlines()
    assert all(line.isprintable() for line in lines)
    assert any("?]0;owned??[31mcat 1" in line for line in lines)
