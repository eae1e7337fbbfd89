"""YOLO as labelling tools write it: each case is a small data set, and the boxes or the sentence it gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.tiny_data import write_image
from yolo_lightning.data.annotations.source import DataSource
from yolo_lightning.errors import InputError

BOX = [16.0, 12.0, 32.0, 24.0]
ROW = "0 0.375 0.375 0.25 0.25"
YAML = "train: images/train\nval: images/train\nnames: [disc, square]\n"


def write(
    root: Path,
    label: str | bytes = ROW,
    yaml: str | bytes = YAML,
    image: str = "images/train/a.png",
    text: str = "labels/train/a.txt",
) -> Path:
    """One image of 64 x 48 px, its label file, and data.yaml."""
    write_image(root / image, 48, 64)
    for path, content in ((root / text, label), (root / "data.yaml", yaml)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root / "data.yaml"


def check(source: DataSource, *labels: list[float]) -> None:
    index = source.read("train")
    assert len(index) == 1
    np.testing.assert_allclose(index.labels(0), labels or [[0, *BOX]], atol=1e-4)


LABELS: dict[str, str | bytes] = {
    "tabs": ROW.replace(" ", "\t"),
    "trailing spaces": ROW + "  \t ",
    "leading spaces": "   " + ROW,
    "empty lines": f"\n\n  \n{ROW}\n\n",
    "crlf": ROW + "\r\n\r\n",
    "old macintosh": ROW + "\r",
    "commas": ROW.replace(" ", ","),
    "commas and spaces": ROW.replace(" ", ", "),
    "comma at the end": ROW + ",",
    "semicolons": ROW.replace(" ", ";"),
    "semicolons and decimal commas": "0;0,375;0,375;0,25;0,25",
    "points parted by commas": "0 0.25,0.25 0.5,0.25 0.5,0.5 0.25,0.5",
    "polygon": "0 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5",
    "closed polygon": "0 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5 0.25 0.25",
    "float class": "0.0" + ROW[1:],
    "exponents": "0 3.75e-1 3.75E-01 .25 +0.25",
    "many digits": "0 0.37500000000000000000 0.375 0.25 0.25",
    "byte order mark": ROW.encode("utf-8-sig"),
    "utf-16": ROW.encode("utf-16"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels(tmp_path: Path, name: str) -> None:
    write(tmp_path, LABELS[name])
    check(DataSource(tmp_path))


LABEL_ERRORS: dict[str, tuple[str | bytes, str]] = {
    "decimal commas": ("0 0,375 0,375 0,25 0,25", r"a\.txt:1: .* write 0\.5, not 0,5"),
    "decimal commas of 0 and 1": ("0 0,0 0,0 1,0 1,0", r"a\.txt:1: .* write 0\.5, not 0,5"),
    "a confidence": (ROW + " 0.9", r"a\.txt:1: 6 numbers are not a label"),
    "class by name": ("disc" + ROW[1:], r"a\.txt:1: 'disc .* is not all numbers"),
    "a header": (f"class,x,y,w,h\n{ROW}", r"a\.txt:1: .*"),
    "px": ("0 24 18 16 12", r"a\.txt:1: 24 is out of 0\.\.1"),
    "utf-16 without a mark": (ROW.encode("utf-16-le"), r"a\.txt: .*save the file as UTF-8"),
    "cp1252": (ROW.replace(" ", "\xa0").encode("cp1252"), r"a\.txt: .*save the file as UTF-8"),
}


@pytest.mark.parametrize("name", LABEL_ERRORS)
def test_errors_in_labels(tmp_path: Path, name: str) -> None:
    content, message = LABEL_ERRORS[name]
    write(tmp_path, content)
    with pytest.raises(InputError, match=message) as error:
        DataSource(tmp_path).read("train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shape", "row"),
    [
        ("[2, 2]", ROW + " 0.9 0.9 0.1 0.1"),
        ("[2, 3]", ROW + " 0.9 0.9 2 0.1 0.1 0"),
        ("['1', '3']", ROW + " 9 9 2"),  # 9 numbers, as a polygon would have
        ("[17, 3]", ROW),  # an object without points
        ("null", ROW),
    ],
)
def test_poses(tmp_path: Path, shape: str, row: str) -> None:
    write(tmp_path, row, f"{YAML}kpt_shape: {shape}\n")
    check(DataSource(tmp_path))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("[3, 2]", r"a\.txt:1: 9 numbers are not a label; .* and 6 numbers"),
        ("17", r"data\.yaml: 'kpt_shape' must be"),
        ("[17, 4]", r"data\.yaml: 'kpt_shape' must be"),
        ("[[1], 2]", r"data\.yaml: 'kpt_shape' must be"),
    ],
)
def test_errors_in_poses(tmp_path: Path, shape: str, message: str) -> None:
    write(tmp_path, ROW + " 0.9 0.9 0.1 0.1", f"{YAML}kpt_shape: {shape}\n")
    with pytest.raises(InputError, match=message):
        DataSource(tmp_path).read("train")


NAMES: list[tuple[str, tuple[str, ...]]] = [
    ("[02146, 21008, 1e3, yes, no, 12:30]", ("02146", "21008", "1e3", "yes", "no", "12:30")),
    ("[on, Off, Y, n, true, null, ~]", ("on", "Off", "Y", "n", "true", "null", "~")),
    ("[1_000, 0x1F, 0o7, 1.50, .5, .inf, -0]", ("1_000", "0x1F", "0o7", "1.50", ".5", ".inf", "-0")),
    ("[2024-01-02, 3.10, '007', \"no\", =]", ("2024-01-02", "3.10", "007", "no", "=")),
    ("\n- disc\n- no\n", ("disc", "no")),
    ("{'0': disc, '1': square}", ("disc", "square")),
    ('{"1": square, "0": disc}', ("disc", "square")),
    ("\n  0: disc\n  1: square\n", ("disc", "square")),
    ("\n\t0: disc\n\t1: square\n", ("disc", "square")),
    ("\t[disc, square]\t", ("disc", "square")),
    ("[disc, square]   # two", ("disc", "square")),
    ("[café, 狗]", ("café", "狗")),
]


@pytest.mark.parametrize(("text", "names"), NAMES)
def test_names_stay_as_they_are_written(tmp_path: Path, text: str, names: tuple[str, ...]) -> None:
    write(tmp_path, yaml=f"names: {text}\nnc: {len(names)}\ntrain: images/train\n")
    assert DataSource(tmp_path).read("train").class_names == DataSource(tmp_path).classes()[0] == names
    check(DataSource(tmp_path))


def test_numbers_of_classes_may_have_gaps(tmp_path: Path) -> None:
    yaml = "names: {7: square, 2: disc}\nnc: 2\ntrain: images/train\n"
    write(tmp_path, f"7{ROW[1:]}\n2 0.5 0.5 1 1", yaml)
    check(DataSource(tmp_path), [1, *BOX], [0, 0, 0, 64, 48])
    assert DataSource(tmp_path).classes()[0] == ("disc", "square")
    write(tmp_path, ROW, yaml)
    with pytest.raises(InputError, match="class 0 is not one of 2, 7"):
        DataSource(tmp_path).read("train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: disc, square", "'names' must list the classes"),
        ("names: []", "'names' must list the classes"),
        ("names: {disc: 0}", "the key 'disc' of 'names' must be the number"),
        ("names: {-1: disc}", "the key '-1' of 'names' must be the number"),
        ("names: [{0: disc}]", "the name of class 0 in 'names' is not a text"),
        ("names:\n- disc\n-\n", "the name of class 1 in 'names' is not a text"),
        ("names: [a, b]\nnc: many", "'nc' is many but 'names' has 2"),
        ('names: [a]\ntrain: "images\\Data"', r"data\.yaml:2: broken YAML .*; write / for \\"),
        ("names: [a]\ntrain: nowhere\\train", r"'train' names .*, which does not exist"),
        ("names: [a]\ntrain: ~", "there is no train split"),
        ("names: [a]\ntrain:", "there is no train split"),
    ],
)
def test_errors_in_the_yaml(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, yaml=text)
    with pytest.raises(InputError, match=message) as error:
        DataSource(tmp_path).read("train")
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_encodings_of_the_yaml(tmp_path: Path) -> None:
    text = YAML.replace("disc", "café").replace("\n", "\r\n")
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        write(tmp_path, yaml=text.encode(encoding))
        assert DataSource(tmp_path).read("train").class_names == ("café", "square")
    for encoding in ("cp1252", "utf-16-le"):
        write(tmp_path, yaml=text.encode(encoding))
        with pytest.raises(InputError, match=r"data\.yaml: .*save the file as UTF-8"):
            DataSource(tmp_path).read("train")


PATHS = [
    "train/images",
    "./train/images",
    "../train/images",
    "train\\images",
    ".\\train\\images",
    "..\\train\\images",
    '"train\\\\images"',
    "Shapes-3/train/images",
    "Shapes-3\\train\\images",
    "../Shapes-3/train/images",
    "/content/datasets/Shapes-3/train/images",
    "C:\\Users\\me\\Shapes-3\\train\\images",
    "\ttrain/images\t",
    "[train/images, Shapes-3/train/images]",
]


@pytest.mark.parametrize("entry", PATHS)
def test_paths_in_the_yaml(tmp_path: Path, entry: str) -> None:
    root = tmp_path / "Shapes-3"
    write(
        root, yaml=f"train: {entry}\nnames: [disc]\n", image="train/images/a.png", text="train/labels/a.txt"
    )
    check(DataSource(root))
    check(DataSource(root / "data.yaml"))


def test_a_backslash_that_yaml_has_made_a_tab(tmp_path: Path) -> None:
    write(tmp_path, yaml='train: "images\\train"\nnames: [disc]\n')
    check(DataSource(tmp_path))


@pytest.mark.parametrize("entry", ["set/train/images", "sub/set/train/images"])
def test_paths_from_the_folder_above_and_the_working_directory(
    tmp_path: Path, entry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("set", "sub/set"):
        write(tmp_path / place, image="train/images/a.png", text="train/labels/a.txt")
    (tmp_path / "yaml").mkdir()
    path = tmp_path / "yaml/data.yaml"
    path.write_text(f"train: {entry}\nnames: [disc]\n")
    check(DataSource(path, allow_outside=True))
    deep = tmp_path / "a/b/data.yaml"
    deep.parent.mkdir(parents=True)
    path.rename(deep)
    monkeypatch.chdir(tmp_path)
    check(DataSource(deep, allow_outside=True))


def test_a_path_as_it_is_written_comes_first(tmp_path: Path) -> None:
    for place in ("one/valid/images", "val/images", "images"):
        write_image(tmp_path / place / "a.png", 48, 64)
    (tmp_path / "data.yaml").write_text("path: one\nval: val/images\ntest: ../images\nnames: [disc]\n")
    source = DataSource(tmp_path)
    assert source.read("val").path(0) == tmp_path / "val/images/a.png"
    assert source.read("test").path(0) == tmp_path / "images/a.png"


LISTS = [
    "images/train/a.png",
    "./images/train/a.png",
    ".\\images\\train\\a.png",
    "data/images/train/a.png",
    "C:\\set\\images\\train\\a.png",
    "/home/me/images/train/a.PNG",
]


@pytest.mark.parametrize("line", LISTS)
@pytest.mark.parametrize("form", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_of_images(tmp_path: Path, line: str, form: str) -> None:
    write(tmp_path, yaml="train: train.TXT\nnames: [disc]\n")
    (tmp_path / "train.TXT").write_bytes(f"\r\n{line}  \r\n\r\n".encode(form))
    check(DataSource(tmp_path))
    changed = any("spelled otherwise" in str(f) for f in DataSource(tmp_path).read("train").findings)
    assert changed == (line not in LISTS[:2])


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("images/train/a.JPG", "labels/train/a.txt"),
        ("images/train/a.Jpeg", "labels/train/a.TXT"),
        ("images/train/a.png", "images/train/a.txt"),  # beside it: there is no folder of labels
        ("images/train/a.png", "images/train/a.TXT"),
        ("images/train/a.b.png", "labels/train/a.b.txt"),
    ],
)
def test_label_files(tmp_path: Path, image: str, text: str) -> None:
    write(tmp_path, image=image, text=text)
    check(DataSource(tmp_path))


def test_texts_beside_images_are_no_labels_if_there_is_a_folder_of_labels(tmp_path: Path) -> None:
    write(tmp_path)
    write_image(tmp_path / "images/train/b.png", 48, 64)
    (tmp_path / "images/train/b.txt").write_text("a caption")
    index = DataSource(tmp_path).read("train")
    assert [len(index.labels(n)) for n in range(2)] == [1, 0]
    assert any("1 files beside images are not read" in str(f) and "b.txt" in str(f) for f in index.findings)


def test_a_label_file_that_moves_is_seen_at_the_next_start(tmp_path: Path) -> None:
    write(tmp_path, text="images/train/a.txt")
    assert len(DataSource(tmp_path).read("train", keep=True).labels(0)) == 1
    write(tmp_path, f"{ROW}\n1{ROW[1:]}")
    assert len(DataSource(tmp_path).read("train", keep=True).labels(0)) == 2


@pytest.mark.parametrize("name", ["data.YAML", "Data.yml", "shapes.yaml"])
def test_other_names_of_the_yaml(tmp_path: Path, name: str) -> None:
    write(tmp_path).rename(tmp_path / name)
    source = DataSource(tmp_path)
    check(source)
    check(DataSource(tmp_path / name))
    found: Any = source.locate()
    assert found[1] == tmp_path / name


def test_files_with_labels_that_are_not_read_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    for name in ("b.XCF", "c.svg", "notes.md"):
        (tmp_path / "images/train" / name).write_bytes(b"\0")
    for name in ("b.txt", "c.TXT"):
        (tmp_path / "labels/train" / name).write_text(ROW)
    (finding,) = [f for f in DataSource(tmp_path).read("train").findings if f.kind == "images not read"]
    assert finding.what.startswith("2 files with labels are not read (.XCF, .svg), such as ")


def test_label_files_without_images_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    for name, text in (
        ("gone.txt", ROW),
        ("classes.txt", "disc\nsquare"),
        ("empty.txt", ""),
        ("1.txt", "1 2 3"),
    ):
        (tmp_path / "labels/train" / name).write_text(text)
    index = DataSource(tmp_path).read("train", keep=True)
    (finding,) = [finding for finding in index.findings if finding.kind == "labels without image"]
    assert finding.where == str(tmp_path / "labels/train/gone.txt") and finding.severity == "warning"
    (tmp_path / "labels/train/gone.txt").unlink()
    assert not any("no image" in str(f) for f in DataSource(tmp_path).read("train", keep=True).findings)


def test_labels_of_the_other_split_in_one_folder_are_no_orphans(tmp_path: Path) -> None:
    write(tmp_path, yaml="train: train.txt\nval: val.txt\nnames: [disc, square]\n")
    write_image(tmp_path / "images/train/b.png")
    (tmp_path / "labels/train/b.txt").write_text(ROW)
    (tmp_path / "train.txt").write_text("images/train/a.png\n")
    assert len(DataSource(tmp_path).read("train").findings) == 1  # the class that is not used
