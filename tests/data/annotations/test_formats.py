"""Data sets of labelling tools: the format is found out, and each case gives the box that was drawn."""

from __future__ import annotations

import base64
import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import labelled_sets as sets
from tests.support.labelled_sets import BOX, CORNERS, ROW, WRITERS, picture, put
from yolo_lightning.data.annotations.index import DatasetIndex
from yolo_lightning.data.annotations.source import DataSource
from yolo_lightning.errors import InputError

Write = Callable[[Path], None]


def read(root: Path, split: Any = "train", **options: Any) -> DatasetIndex:
    return DataSource(root, **options).read(split)


def check(root: Path, *boxes: Any, names: tuple[str, ...] = ("disc",), **options: Any) -> DatasetIndex:
    """The only image of the data set has these boxes, of the class that comes first."""
    index = read(root, **options)
    assert index.class_names == names
    assert [path.name for path in map(index.path, range(len(index)))] == ["a.png"]
    np.testing.assert_allclose(index.boxes, boxes or [BOX], atol=1e-4)
    assert not index.classes.any()
    return index


@pytest.mark.parametrize("layout", WRITERS)
def test_format_is_found_out_and_can_be_given(tmp_path: Path, layout: str) -> None:
    WRITERS[layout](tmp_path)
    source = DataSource(tmp_path)
    index = source.read("train")
    assert index.layout == layout and index.class_names == source.classes()[0]
    assert index.class_names[0] == "disc" and not index.classes.any()
    assert [Path(path).name for path in index.paths()] == ["a.png", "b.png", "c.png"]
    np.testing.assert_allclose(index.boxes, [BOX] * 3, atol=1e-4)
    assert index.sizes.tolist() == [[48, 64]] * 3
    assert {finding.kind for finding in index.findings} <= {"other spelling", "unused class"}
    given = DataSource(tmp_path, format=source.locate()[0].name)
    assert given.locate() == source.locate()


def test_format_that_is_given_wins(tmp_path: Path) -> None:
    sets.write_voc(tmp_path)
    put(tmp_path / "data.yaml", "train: .\nval: .\nnames: [square]\n")
    assert read(tmp_path).class_names == ("square",)
    assert read(tmp_path, format="voc").class_names == ("disc",)
    with pytest.raises(InputError, match=r"no via data set found; correct --data\.format"):
        read(tmp_path, format="via")


# Pascal VOC


def voc(xml: str | bytes, image: str = "a.png", path: str = "a.xml") -> Write:
    def write(root: Path) -> None:
        picture(root / image)
        put(root / path, xml)

    return write


PART = (
    "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></part>"
)
VOC: dict[str, Write] = {
    "xml beside the image": voc(sets.voc_xml()),
    "folders of the challenge": voc(sets.voc_xml(), "JPEGImages/a.png", "Annotations/a.xml"),
    "flat folder of xml": voc(sets.voc_xml(), "pictures/a.png", "xml/a.xml"),
    "byte order mark": voc(sets.voc_xml().encode("utf-8-sig")),
    "utf-16": voc(('<?xml version="1.0" encoding="utf-16"?>' + sets.voc_xml()).encode("utf-16")),
    "latin-1": voc(('<?xml version="1.0" encoding="ISO-8859-1"?>' + sets.voc_xml("é.png")).encode("latin-1")),
    "carriage returns": voc(sets.voc_xml().replace("\n", "\r\n")),
    "floats": voc(sets.voc_xml(objects=sets.voc_object(box=("16.0", "12.00", "32.", "24.000")))),
    "white space around the class": voc(sets.voc_xml(objects=sets.voc_object("\n  disc "))),
    "difficult in words": voc(sets.voc_xml().replace("<difficult>0", "<difficult>Unspecified")),
    "size 0": voc(sets.voc_xml(size=(0, 0))),
    "no size": voc(sets.voc_xml().replace("size", "dimensions")),
    "parts": voc(sets.voc_xml(objects=sets.voc_object(extra=PART))),
    "polygon of Roboflow": voc(sets.voc_xml(objects=sets.voc_object(extra="<polygon><x1>1</x1></polygon>"))),
    "file name of another image": voc(sets.voc_xml("copied.png")),
    "file name in upper case": voc(sets.voc_xml("A.PNG"), path="label.xml"),
    "file name with folders": voc(sets.voc_xml("D:\\work\\a.png"), path="label.xml"),
    "file name without suffix": voc(sets.voc_xml("a"), path="label.xml"),
    "upper-case suffix": voc(sets.voc_xml(), path="a.XML"),
    "counted from 1 by the challenge": voc(
        sets.voc_xml(objects=sets.voc_object(box=(17, 13, 32, 24)), database="The VOC2007 Database")
    ),
}


@pytest.mark.parametrize("name", VOC)
def test_voc(tmp_path: Path, name: str) -> None:
    VOC[name](tmp_path)
    check(tmp_path)


def test_voc_difficult_objects_are_ignored_not_trained_on(tmp_path: Path) -> None:
    hard = sets.voc_object(box=(1, 1, 9, 9)).replace("<difficult>0", "<difficult>1")
    voc(sets.voc_xml(objects=sets.voc_object() + hard))(tmp_path)
    index = check(tmp_path, BOX, [1, 1, 9, 9])
    assert index.crowd.tolist() == [False, True] and index.trainable.tolist() == [True, False]


def test_voc_image_without_objects(tmp_path: Path) -> None:
    voc(sets.voc_xml())(tmp_path)
    picture(tmp_path / "b.png")
    put(tmp_path / "b.xml", sets.voc_xml("b.png", ""))
    assert np.diff(read(tmp_path).offsets).tolist() == [1, 0]


def test_voc_splits_of_image_sets(tmp_path: Path) -> None:
    for name in "abcd":
        picture(tmp_path / f"VOC2007/JPEGImages/{name}.png")
        put(tmp_path / f"VOC2007/Annotations/{name}.xml", sets.voc_xml(f"{name}.png"))
    lists = tmp_path / "VOC2007/ImageSets/Main"
    put(lists / "train.txt", "a\r\n")
    put(lists / "val.txt", "b.png\n")
    put(lists / "trainval.txt", "a\nb\n")
    put(lists / "test.txt", "c\n")
    put(lists / "disc_train.txt", "d  1\n")
    found = {
        split: [path[-5] for path in read(tmp_path, split).paths()] for split in ("train", "val", "test")
    }
    assert found == {"train": ["a"], "val": ["b"], "test": ["c"]}
    assert DataSource(tmp_path).splits() == ["train", "val", "test"]


def test_voc_of_cvat(tmp_path: Path) -> None:
    voc(sets.voc_xml(), "JPEGImages/day 1/a.png", "Annotations/day 1/a.xml")(tmp_path)
    put(tmp_path / "ImageSets/Main/default.txt", '"day 1/a"\n')
    put(tmp_path / "labelmap.txt", "# label:color_rgb:parts:actions\ndisc:128,0,0::\n")
    check(tmp_path)


def test_xml_of_the_old_labelme(tmp_path: Path) -> None:
    points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in CORNERS)
    item = f"<object><name>disc</name><deleted>0</deleted><polygon>{points}</polygon></object>"
    voc(sets.voc_xml(objects=item + item.replace("<deleted>0", "<deleted>1")))(tmp_path)
    check(tmp_path)


def test_voc_splits_of_folders(tmp_path: Path) -> None:
    for folder, name in (("train", "disc"), ("valid", "square"), ("test", "disc")):
        picture(tmp_path / folder / "a.png")
        put(tmp_path / folder / "a.xml", sets.voc_xml(objects=sets.voc_object(name)))
    for split, folder, number in (("train", "train", 0), ("val", "valid", 1), ("test", "test", 0)):
        index = read(tmp_path, split)
        assert index.class_names == ("disc", "square") and index.classes.tolist() == [number]
        assert index.paths() == [str(tmp_path / folder / "a.png")]


LAUGHS = '<!DOCTYPE lolz [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>'
BAD_XML: dict[str, tuple[str | bytes, str]] = {
    "not well-formed": (sets.voc_xml()[:-20], r"a\.xml:\d+: broken XML"),
    "billion laughs": (LAUGHS + sets.voc_xml(objects=sets.voc_object("&b;")), r"a\.xml: broken .*<!DOCTYPE"),
    "outside entity": (
        '<!DOCTYPE x SYSTEM "file:///etc/passwd">' + sets.voc_xml(),
        r"a\.xml: broken .*<!DOCTYPE",
    ),
    "no numbers": (
        sets.voc_xml(objects=sets.voc_object(box=("x", 1, 2, 3))),
        r"a\.xml: object 1 of a: 'x' is no number; correct or remove it",
    ),
    "not finite": (
        sets.voc_xml(objects=sets.voc_object(box=("nan", 1, 2, 3))),
        r"a\.xml: object 1 of a: its box is not all finite numbers",
    ),
    "no class": (sets.voc_xml(objects=sets.voc_object("")), r"a\.xml: object 1 of a: it has no class"),
    "no box": (
        sets.voc_xml(objects="<object><name>disc</name></object>"),
        r"a\.xml: object 1 of a: its 'bndbox' has no xmin, ymin, xmax, ymax",
    ),
    "other size": (sets.voc_xml(size=(640, 480)), r"a\.png: the image is 64 x 48 px but .* 640 x 480 px"),
    "empty": ("", r"a\.xml:1: broken XML"),
}


@pytest.mark.parametrize("name", BAD_XML)
def test_bad_xml_is_an_error_of_its_image(tmp_path: Path, name: str) -> None:
    xml, message = BAD_XML[name]
    picture(tmp_path / "a.png")
    put(tmp_path / "a.xml", xml)
    picture(tmp_path / "b.png")
    put(tmp_path / "b.xml", sets.voc_xml("b.png"))
    kind, place = DataSource(tmp_path).locate()
    index = kind.of_split(place, "train", None).read()
    assert index.paths() == [str(tmp_path / "b.png")]
    assert [finding.image for finding in index.findings if finding.is_error] == [str(tmp_path / "a.png")]
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_only_broken_files_are_named(tmp_path: Path) -> None:
    voc(sets.voc_xml()[:-20])(tmp_path)
    with pytest.raises(InputError, match=r"no data set found; .*a\.xml:\d+: broken XML"):
        read(tmp_path)


def test_missing_image_is_an_error(tmp_path: Path) -> None:
    sets.write_voc(tmp_path)
    (tmp_path / "b.png").unlink()
    with pytest.raises(InputError, match=r"b\.xml: its image b or b\.png is not below the folder"):
        read(tmp_path)


def test_images_without_annotations_are_named(tmp_path: Path) -> None:
    voc(sets.voc_xml())(tmp_path)
    picture(tmp_path / "z.png")
    assert [finding.kind for finding in check(tmp_path).findings] == ["not annotated"]


def test_hidden_and_apple_double_files_are_passed_over(tmp_path: Path) -> None:
    voc(sets.voc_xml())(tmp_path)
    for name in ("._a.xml", ".a.xml", ".trash/a.xml", "@eaDir/a.xml"):
        put(tmp_path / name, b"\x00\x05\x16\x07")
    assert not check(tmp_path).findings


def test_folders_that_may_not_be_read_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voc(sets.voc_xml())(tmp_path)
    (tmp_path / "lost+found").mkdir()
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if "lost+found" in str(path):
            raise PermissionError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    check(tmp_path)


# LabelMe


def labelme(*shapes: Any, name: str = "a.png", **more: Any) -> Write:
    def write(root: Path) -> None:
        picture(root / "a.png")
        put(root / "a.json", sets.labelme_json(name, *shapes, **more))

    return write


shape = sets.labelme_shape
LABELME: dict[str, Write] = {
    "polygon": labelme(shape()),
    "polygon without a type": labelme({"label": "disc", "points": CORNERS}),
    "rectangle": labelme(shape([[16, 12], [32, 24]], "rectangle")),
    "rectangle drawn from the lower right": labelme(shape([[32, 24], [16, 12]], "rectangle")),
    "rectangle of four points": labelme(shape(CORNERS, "rectangle")),
    "turned rectangle": labelme(shape([[24, 12], [32, 18], [24, 24], [16, 18]], "rotation")),
    "mask": labelme(shape([[16, 12], [31, 23]], "mask")),
    "parts of one group": labelme(
        shape([[16, 12], [20, 12], [18, 24]], group=1), shape([[30, 12], [32, 12], [31, 24]], group=1)
    ),
    "backslashes": labelme(shape(), name="..\\pictures\\a.png"),
    "path of another machine": labelme(shape(), name="/home/ann/pictures/a.png"),
    "name of another image": labelme(shape(), name="renamed.png"),
    "picture in the file": labelme(shape(), data=base64.b64encode(b"x" * 999).decode()),
}


@pytest.mark.parametrize("name", LABELME)
def test_labelme(tmp_path: Path, name: str) -> None:
    LABELME[name](tmp_path)
    check(tmp_path)


def test_labelme_shape_without_a_label(tmp_path: Path) -> None:
    labelme(shape(label=None), shape())(tmp_path)
    with pytest.raises(InputError, match=r"object 1 of a\.png: it has no class; correct or remove it"):
        read(tmp_path)


def test_labelme_circle(tmp_path: Path) -> None:
    labelme(shape([[20, 20], [23, 24]], "circle"))(tmp_path)
    check(tmp_path, [15, 15, 25, 25])


def test_labelme_shapes_without_a_box_are_counted(tmp_path: Path) -> None:
    points = [shape([[1, 1]], "point"), shape([[2, 2]], "point"), shape([[1, 1], [5, 5]], "line", group=2)]
    labelme(shape(), *points)(tmp_path)
    found = check(tmp_path).findings
    assert [finding.what for finding in found] == [
        "a point has no box (2 such are passed over)",
        "a line has no box (1 such are passed over)",
    ]


def test_labelme_picture_that_is_only_in_the_file(tmp_path: Path) -> None:
    put(tmp_path / "a.json", sets.labelme_json("a.png", shape(), data="AAAA"))
    with pytest.raises(InputError, match=r"save the picture in 'imageData' as a file"):
        read(tmp_path)


def test_labelme_other_json_files_are_named(tmp_path: Path) -> None:
    labelme(shape())(tmp_path)
    put(tmp_path / "config.json", {"labels": []})
    assert [finding.what for finding in check(tmp_path).findings] == [
        "the file is not LabelMe (1 such are passed over)"
    ]


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"shapes": [' + "1" * 5000 + "]}", "\x00"])
def test_broken_json_is_an_error_of_its_image(tmp_path: Path, text: str) -> None:
    labelme(shape())(tmp_path)
    picture(tmp_path / "b.png")
    put(tmp_path / "b.json", text)
    with pytest.raises(InputError, match=r"b\.json:?\d*: (broken|cannot be read)"):
        read(tmp_path)


@pytest.mark.parametrize("name", [5, True, ["a.png"], {"a": "b"}, "\0", "."])
def test_labelme_image_path_that_is_no_name(tmp_path: Path, name: Any) -> None:
    labelme(shape(), name=name)(tmp_path)
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"a\.json: its image .* is not below the folder"):
        read(tmp_path)


@pytest.mark.parametrize(
    "points, what",
    [
        ([], "it has fewer than 3 points"),
        ([[1, 2]], "it has fewer than 3 points"),
        ([["x", 1], [2, 2], [3, 3]], "'x' is no number"),
        ([[1e999, 1], [2, 2], [3, 3]], "its box is not all finite numbers"),
        (None, "a value is missing, or is not what LabelMe has there"),
        ([[1], [2], [3]], "a value is missing, or is not what LabelMe has there"),
    ],
)
def test_labelme_malformed_points(tmp_path: Path, points: Any, what: str) -> None:
    labelme(shape(points))(tmp_path)
    with pytest.raises(InputError, match=rf"a\.json: object 1 of a\.png: {what}; correct or remove it"):
        read(tmp_path)


# VGG Image Annotator

region = sets.via_region


def via(content: Any, name: str = "via_region_data.json") -> Write:
    def write(root: Path) -> None:
        picture(root / "a.png")
        put(root / name, content)

    return write


def via_2(*regions: Any, **more: Any) -> Any:
    return {
        "_via_settings": {"ui": {}}, "_via_img_metadata": {"a.png123": sets.via_image("a.png", *regions)},
        "_via_attributes": {"region": {}, "file": {}}, "_via_data_format_version": "2.0.10",
        "_via_image_id_list": ["a.png123"], **more,
    }  # fmt: skip


KINDS = {"region": {
    "kind": {"type": "dropdown", "options": {"disc": "", "square": ""}, "default_options": {}},
    "note": {"type": "text", "description": "", "default_value": ""},
}}  # fmt: skip
OUTLINE = {"all_points_x": [16, 32, 24], "all_points_y": [12, 18, 24]}
VIA_3 = {
    "project": {"pid": "__VIA_PROJECT_ID__", "data_format_version": "3.1.1", "vid_list": ["1"]}, "config": {},
    "attribute": {"1": {"aname": "kind", "anchor_id": "FILE1_Z0_XY1", "type": 4, "options": {"0": "disc"}}},
    "file": {"1": {"fid": "1", "fname": "a.png", "type": 2, "loc": 1, "src": "a.png"}},
    "view": {"1": {"fid_list": ["1"]}},
    "metadata": {
        "1_a": {"vid": "1", "flg": 0, "z": [], "xy": [2, 16, 12, 16, 12], "av": {"1": "0"}},
        "1_b": {"vid": "1", "flg": 0, "z": [], "xy": [], "av": {"1": "0"}},
    },
}  # fmt: skip
FIRST = {**sets.via_image(), "fileref": "", "base64_img_data": "", "regions": {"0": region()}}
VIA: dict[str, Write] = {
    "version 1": via({"a.png123": FIRST}),
    "version 2": via({"a.png123": sets.via_image("a.png", region())}),
    "project of version 2": via(via_2(region()), "via_project_1Jan2024.json"),
    "project of version 3": via(VIA_3, "project.json"),
    "polygon": via({"k": sets.via_image("a.png", region({"name": "polygon", **OUTLINE}))}),
    "polyline": via({"k": sets.via_image("a.png", region({"name": "polyline", **OUTLINE}))}),
    "dropdown among others": via(via_2(region(kind="disc", note="dirty"), _via_attributes=KINDS)),
    "checkboxes": via({"k": sets.via_image("a.png", region(kind={"square": False, "disc": True}))}),
    "byte order mark": via(json.dumps({"k": sets.via_image("a.png", region())}).encode("utf-8-sig")),
}


@pytest.mark.parametrize("name", VIA)
def test_via(tmp_path: Path, name: str) -> None:
    VIA[name](tmp_path)
    check(tmp_path)


def test_via_round_shapes(tmp_path: Path) -> None:
    circle = {"name": "circle", "cx": 20, "cy": 20, "r": 5}
    ellipse = {"name": "ellipse", "cx": 20, "cy": 20, "rx": 10, "ry": 5, "theta": np.pi / 2}
    via({"k": sets.via_image("a.png", region(circle), region(ellipse))})(tmp_path)
    check(tmp_path, [15, 15, 25, 25], [15, 10, 25, 30])


def test_via_3_shapes(tmp_path: Path) -> None:
    project = copy.deepcopy(VIA_3)
    shapes = [[3, 20, 20, 5], [4, 20, 20, 10, 5, 0], [7, 1, 2, 9, 2, 5, 8], [1, 4, 4]]
    project["metadata"] = {str(n): {"vid": "1", "xy": xy, "av": {"1": "0"}} for n, xy in enumerate(shapes)}
    via(project)(tmp_path)
    index = check(tmp_path, [15, 15, 25, 25], [10, 15, 30, 25], [1, 2, 9, 8])
    assert [finding.what for finding in index.findings] == ["a point has no box (1 such are passed over)"]


def test_via_regions_without_attributes_are_one_class(tmp_path: Path) -> None:
    bare = {"shape_attributes": sets.RECT, "region_attributes": {}}
    via({"k": sets.via_image("a.png", bare)})(tmp_path)
    check(tmp_path, names=("object",))


def test_via_class_that_cannot_be_told(tmp_path: Path) -> None:
    via({"k": sets.via_image("a.png", region(kind="disc", colour="red"))})(tmp_path)
    with pytest.raises(InputError, match=r"several attributes \(kind, colour\), and which is the class"):
        read(tmp_path)


def test_via_region_without_the_class(tmp_path: Path) -> None:
    via(via_2(region(kind="disc"), region(note="x"), _via_attributes=KINDS))(tmp_path)
    with pytest.raises(InputError, match=r"object 2 of a\.png: it has no 'kind'; correct or remove it"):
        read(tmp_path)
    via({"k": sets.via_image("a.png", region(), region(kind={"disc": False}))})(tmp_path)
    with pytest.raises(InputError, match=r"object 2 of a\.png: .*no class"):
        read(tmp_path)


# VoTT

VOTT_TAGS = [{"name": "disc", "color": "#f00"}, {"name": "blue square", "color": "#00f"}]


def vott_export(*assets: Any) -> Any:
    return {"name": "shapes", "securityToken": "x", "tags": VOTT_TAGS, "version": "2.2.0",
            "assets": {asset["asset"]["name"]: asset for asset in assets}}  # fmt: skip


def test_vott_export_and_its_order_of_classes(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    put(tmp_path / "0a1b-asset.json", sets.vott_asset("a.png", sets.vott_region("disc")))
    assets = sets.vott_asset("a.png", sets.vott_region("disc", "blue square"), sets.vott_region())
    unseen = sets.vott_asset("b.png", state=0)
    put(tmp_path / "vott-json-export/shapes-export.json", vott_export(assets, unseen))
    index = read(tmp_path)
    assert index.class_names == ("disc", "blue square") and index.classes.tolist() == [0, 1]
    np.testing.assert_allclose(index.boxes, [BOX, BOX])
    assert [finding.what for finding in index.findings] == [
        "a region has no tag (1 such are passed over)",
        "an image has not been visited (1 such are passed over)",
    ]


def test_vott_assets_and_percent_encoded_names(tmp_path: Path) -> None:
    picture(tmp_path / "my picture.png")
    asset = sets.vott_asset("my%20picture.png", sets.vott_region("disc"))
    put(tmp_path / "0a1b-asset.json", asset)
    assert read(tmp_path).boxes.tolist() == [BOX]


# Supervisely


def supervisely(*objects: Any) -> Write:
    def write(root: Path) -> None:
        picture(root / "set 1/img/a.png")
        put(root / "set 1/ann/a.png.json", sets.supervisely_json(*objects))

    return write


SUPERVISELY: dict[str, Write] = {
    "rectangle": supervisely(sets.supervisely_object()),
    "polygon": supervisely(sets.supervisely_object("polygon", CORNERS)),
    "bitmap": supervisely(sets.supervisely_object("bitmap", [], bitmap=sets.supervisely_mask())),
}


@pytest.mark.parametrize("name", SUPERVISELY)
def test_supervisely(tmp_path: Path, name: str) -> None:
    SUPERVISELY[name](tmp_path)
    check(tmp_path)


def test_supervisely_classes_in_the_order_of_the_project(tmp_path: Path) -> None:
    sets.write_supervisely(tmp_path)
    classes = [{"title": name, "shape": "any"} for name in ("square", "disc")]
    put(tmp_path / "meta.json", {"classes": classes, "tags": []})
    assert read(tmp_path).class_names == ("square", "disc")


def test_supervisely_mask_that_is_a_bomb(tmp_path: Path) -> None:
    bitmap = sets.supervisely_mask()
    bitmap["data"] = base64.b64encode(b"\x89PNG" * 99).decode()
    supervisely(sets.supervisely_object("bitmap", [], bitmap=bitmap))(tmp_path)
    with pytest.raises(InputError, match=r"object 1 of .*its bitmap is no PNG"):
        read(tmp_path)


# Label Studio

result, task, annotation = sets.studio_result, sets.studio_task, sets.studio_annotation


def studio(*tasks: Any, image: str = "a.png") -> Write:
    def write(root: Path) -> None:
        picture(root / image)
        put(root / "project-1-at-2024-01-01-10-00-0a1b2c3d.json", list(tasks))

    return write


POINTS = [[25, 25], [50, 25], [50, 50], [25, 50]]
SHORT = {"image": "/data/upload/1/0a1b2c3d-a.png", "id": 1, "annotator": 1, "lead_time": 3.5,
         "label": [{"x": 25, "y": 25, "width": 25, "height": 25, "rotation": 0, "rectanglelabels": ["disc"],
                    "original_width": 64, "original_height": 48}]}  # fmt: skip
PARTED = [
    {**result(), "value": {"x": 25, "y": 25, "width": 25, "height": 25}, "type": "rectangle"},
    {
        **result(),
        "value": {"x": 25, "y": 25, "width": 25, "height": 25, "labels": ["disc"]},
        "type": "labels",
    },
]
STUDIO: dict[str, Write] = {
    "upload": studio(task("/data/upload/1/0a1b2c3d-a.png", annotation(result()))),
    "upload with its digits": studio(
        task("/data/upload/1/0a1b2c3d-a.png", annotation(result())), image="0a1b2c3d-a.png"
    ),
    "local files": studio(task("/data/local-files/?d=my%20pictures/a.png", annotation(result()))),
    "bucket": studio(task("s3://bucket/pictures/a.png", annotation(result()))),
    "address with a signature": studio(task("https://x.org/a.png?sig=1", annotation(result()))),
    "polygon": studio(task("a.png", annotation(result({"points": POINTS, "closed": True}, "polygonlabels")))),
    "ellipse": studio(
        task(
            "a.png",
            annotation(result({"x": 37.5, "y": 37.5, "radiusX": 12.5, "radiusY": 12.5}, "ellipselabels")),
        )
    ),
    "turned by 90 degrees": studio(
        task(
            "a.png", annotation(result({"x": 50, "y": 25, "width": 18.75, "height": 100 / 3, "rotation": 90}))
        )
    ),
    "labels apart": studio(task("a.png", annotation(*PARTED))),
    "first annotation that is not cancelled": studio(
        task("a.png", annotation(cancelled=True), annotation(result()), annotation())
    ),
    "completions of old versions": studio(
        {"id": 1, "completions": [annotation(result())], "data": {"image": "a.png"}, "predictions": []}
    ),
    "relations": studio(
        task("a.png", annotation(result(), {"type": "relation", "from_id": "r1", "to_id": "r2"}))
    ),
    "JSON-MIN": studio(SHORT),
}


@pytest.mark.parametrize("name", STUDIO)
def test_label_studio(tmp_path: Path, name: str) -> None:
    STUDIO[name](tmp_path)
    index = read(tmp_path)
    assert len(index) == 1 and index.class_names == ("disc",)
    np.testing.assert_allclose(index.boxes, [BOX], atol=1e-4)


def test_label_studio_what_has_no_box_is_counted(tmp_path: Path) -> None:
    brush = result({"format": "rle", "rle": [0, 1, 2]}, "brushlabels")
    point = result({"x": 1, "y": 1, "width": 0.5}, "keypointlabels")
    studio(task("a.png", annotation(result(), brush, point)), task("b.png"))(tmp_path)
    assert sorted(finding.what for finding in check(tmp_path).findings) == [
        "a brush has no box (1 such are passed over)",
        "a point has no box (1 such are passed over)",
        "a task has no annotation (1 such are passed over)",
    ]


def test_label_studio_as_coco(tmp_path: Path) -> None:
    picture(tmp_path / "images/0a1b2c3d-a.png")
    document = {
        "images": [{"width": 64, "height": 48, "id": 0, "file_name": "images\\0a1b2c3d-a.png"}],
        "categories": [{"id": 0, "name": "disc"}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 0, "segmentation": [], "ignore": 0,
                         "bbox": [16, 12, 16, 12], "iscrowd": 0, "area": 192}],
        "info": {"year": 2024},
    }  # fmt: skip
    put(tmp_path / "result.json", document)
    index = read(tmp_path)
    assert index.boxes.tolist() == [BOX] and index.layout == "COCO in one file"


def test_label_studio_as_yolo(tmp_path: Path) -> None:
    sets.write_plain_yolo(tmp_path)
    put(tmp_path / "notes.json", {"categories": [{"id": 0, "name": "disc"}], "info": {"year": 2024}})
    assert read(tmp_path).layout == "YOLO without data.yaml"


# CVAT


def cvat(*shapes: str, name: str = "a.png") -> Write:
    def write(root: Path) -> None:
        picture(root / "images/a.png")
        put(root / "annotations.xml", sets.cvat_xml(sets.cvat_image(name, *shapes)))

    return write


CVAT: dict[str, Write] = {
    "box": cvat(sets.CVAT_BOX),
    "polygon": cvat('<polygon label="disc" points="16.0,12.0;32.0,12.0;24.0,24.0" z_order="0"></polygon>'),
    "ellipse": cvat('<ellipse label="disc" cx="24" cy="18" rx="8" ry="6"/>'),
    "mask": cvat('<mask label="disc" rle="1, 2" left="16" top="12" width="16" height="12"/>'),
    "turned by 90 degrees": cvat('<box label="disc" xtl="18" ytl="10" xbr="30" ybr="26" rotation="90"/>'),
    "folder in the name": cvat(sets.CVAT_BOX, name="shapes/day 1/a.png"),
    "tag of the image": cvat(sets.CVAT_BOX, '<tag label="square" source="manual"></tag>'),
}


@pytest.mark.parametrize("name", CVAT)
def test_cvat(tmp_path: Path, name: str) -> None:
    CVAT[name](tmp_path)
    check(tmp_path, names=("disc", "square"))


def test_cvat_subsets_are_splits(tmp_path: Path) -> None:
    images = []
    for name, subset in (("a.png", "Train"), ("b.png", "Validation"), ("c.png", "Test")):
        picture(tmp_path / "images" / subset / name)
        images.append(sets.cvat_image(name, sets.CVAT_BOX, subset=subset))
    put(tmp_path / "annotations.xml", sets.cvat_xml(*images))
    for split, name in (("train", "a.png"), ("val", "b.png"), ("test", "c.png")):
        assert [Path(path).name for path in read(tmp_path, split).paths()] == [name]


def test_cvat_lines_are_counted_and_videos_refused(tmp_path: Path) -> None:
    cvat(sets.CVAT_BOX, '<polyline label="disc" points="1,2;3,4"/>')(tmp_path)
    found = check(tmp_path, names=("disc", "square")).findings
    assert "a polyline has no box (1 such are passed over)" in [finding.what for finding in found]
    put(tmp_path / "annotations.xml", sets.cvat_xml('<track id="0" label="disc"></track>'))
    with pytest.raises(InputError, match="annotations of a video; export them as CVAT for images"):
        read(tmp_path)


def test_cvat_as_ultralytics_yolo(tmp_path: Path) -> None:
    picture(tmp_path / "images/train/day 1/a.png")
    put(tmp_path / "labels/train/day 1/a.txt", ROW)
    put(tmp_path / "train.txt", "data/images/train/day 1/a.png\n")
    put(tmp_path / "data.yaml", "names:\n  0: disc\npath: .\ntrain: train.txt\n")
    check(tmp_path)


# Tables, Darknet, YOLO without a YAML


def test_csv_of_roboflow_for_retinanet(tmp_path: Path) -> None:
    for folder in ("train", "valid"):
        picture(tmp_path / folder / "a.png")
        put(
            tmp_path / folder / "_annotations.csv",
            "a.png,16,12,32,24,disc\na.png,,,,,\n"[: 24 if folder == "train" else None],
        )
    assert read(tmp_path, "val").path(0).parent.name == "valid"
    check(tmp_path)


def test_csv_of_vott(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / f"{name}.png")
    header = '"image","xmin","ymin","xmax","ymax","label"\n'
    put(tmp_path / "set-train-export.csv", header + '"a.png",16,12,32,24,"disc"\n')
    put(tmp_path / "set-test-export.csv", header + '"b.png",16,12,32,24,"disc"\n')
    check(tmp_path)
    assert [Path(path).name for path in read(tmp_path, "test").paths()] == ["b.png"]


def test_csv_with_upper_case_in_its_header(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    put(tmp_path / "a.csv", "\ufeffFilename,XMin,YMin,XMax,YMax,Class\na.png,16,12,32,24,disc\n")
    check(tmp_path)


def test_csv_named_after_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        picture(tmp_path / f"images/{split}/{split}1.png")
        line = f"{split}1.png,64,48,blue disc,16,12,32,24\r\n"
        put(tmp_path / f"{split}_labels.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\r\n" + line)
    assert [Path(path).name for path in read(tmp_path, "test").paths()] == ["test1.png"]
    assert read(tmp_path).class_names == ("blue disc",)


def test_darknet_with_its_own_folder_and_validation(tmp_path: Path) -> None:
    root = tmp_path / "data"
    sets.write_darknet(root)
    put(root / "obj.data", "classes=1\ntrain=data/train.txt\nvalid=data/valid.txt\nnames=data/obj.names")
    put(root / "valid.txt", "data\\obj_train_data\\c.png\r\n")
    assert len(read(root)) == 3
    assert [Path(path).name for path in read(root, "val").paths()] == ["c.png"]
    assert read(root / "obj.data", "val").boxes.tolist() == [BOX]


def test_darknet_in_its_folder_data(tmp_path: Path) -> None:
    """Darknet's own layout: obj.data and the images lie in the folder data of DIR."""
    sets.write_darknet(tmp_path / "data")
    put(tmp_path / "data/obj.data", "train=data/train.txt\nvalid=data/test.txt\nnames=data/obj.names")
    put(tmp_path / "data/train.txt", "data/obj_train_data/a.png\ndata/obj_train_data/b.png\n")
    put(tmp_path / "data/test.txt", "data/obj_train_data/c.png\n")
    assert read(tmp_path).layout == "Darknet"
    assert [Path(path).name for path in read(tmp_path).paths()] == ["a.png", "b.png"]
    assert [Path(path).name for path in read(tmp_path, "val").paths()] == ["c.png"]


def test_other_files_with_the_suffix_of_darknet_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path / "events.data", b"\xff\x00")
    sets.write_voc(tmp_path)
    assert read(tmp_path).layout == "Pascal VOC"


def test_darknet_names_that_are_not_there(tmp_path: Path) -> None:
    sets.write_darknet(tmp_path)
    put(tmp_path / "obj.data", "train = data/train.txt\nnames = /etc/passwd\n")
    with pytest.raises(InputError, match=r"'names' is /etc/passwd, which does not exist"):
        read(tmp_path)


def test_darknet_of_roboflow(tmp_path: Path) -> None:
    for folder in ("train", "valid"):
        picture(tmp_path / folder / "a.png")
        put(tmp_path / folder / "a.txt", ROW)
        put(tmp_path / folder / "_darknet.labels", "disc\nsquare\n")
    check(tmp_path, names=("disc", "square"))
    assert read(tmp_path, "val").path(0).parent.name == "valid"


def test_yolo_of_labelimg(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    put(tmp_path / "a.txt", ROW)
    put(tmp_path / "classes.txt", "\ufeffdisc\r\nblue square\r\n")
    check(tmp_path, names=("disc", "blue square"))


def test_yolo_with_classes_beside_labels_and_folders_of_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        picture(tmp_path / "images" / split / "a.png")
        put(tmp_path / "labels" / split / "a.txt", ROW)
    put(tmp_path / "labels/classes.txt", "disc\n")
    check(tmp_path)
    assert len(read(tmp_path, "val")) == 1


def test_yolo_without_names(tmp_path: Path) -> None:
    sets.write_plain_yolo(tmp_path)
    put(tmp_path / "classes.txt", "\n")
    with pytest.raises(InputError, match=r"classes\.txt: is empty or has empty lines"):
        read(tmp_path)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(InputError, match=r"without the names of the classes; add classes\.txt .*data\.yaml"):
        read(tmp_path)


def test_yolo_class_file_that_leads_out(tmp_path: Path) -> None:
    sets.write_plain_yolo(tmp_path / "set")
    (tmp_path / "set/classes.txt").rename(tmp_path / "secret")
    (tmp_path / "set/classes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"classes\.txt: is a link that leads out of the data set"):
        read(tmp_path / "set")


# COCO in one file


@pytest.mark.parametrize("name", ["_annotations.coco.json", "annotations.json", "anything.json"])
def test_coco_in_the_root(tmp_path: Path, name: str) -> None:
    sets.write_single_coco(tmp_path)
    (tmp_path / "annotations/instances_default.json").rename(tmp_path / name)
    for image in (tmp_path / "images/default").iterdir():
        image.rename(tmp_path / image.name)
    (tmp_path / "annotations").rmdir()
    assert len(read(tmp_path)) == len(read(tmp_path / name)) == 3


# All formats


def test_names_that_lead_out_are_looked_up_inside(tmp_path: Path) -> None:
    picture(tmp_path / "secret.png")
    root = tmp_path / "set"
    labelme(shape(), name="../secret.png")(root)
    put(root / "b.json", sets.labelme_json("../secret.png", shape()))
    with pytest.raises(InputError, match=r"b\.json: its image \.\./secret\.png .* is not below the folder"):
        read(root)
    assert len(read(root, allow_outside=True)) == 1


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    sets.write_voc(tmp_path / "set")
    (tmp_path / "set/a.png").rename(tmp_path / "secret.png")
    (tmp_path / "set/a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError, match=r"a\.png: leads to .*secret\.png.*--data\.allow_outside"):
        read(tmp_path / "set")
    assert len(read(tmp_path / "set", allow_outside=True)) == 3
    (tmp_path / "set/a.png").unlink()
    (tmp_path / "set/b.xml").rename(tmp_path / "secret.xml")
    (tmp_path / "set/b.xml").symlink_to(tmp_path / "secret.xml")
    with pytest.raises(InputError, match=r"b\.xml: leads to .*secret\.xml"):
        read(tmp_path / "set")


def test_an_image_that_two_files_annotate(tmp_path: Path) -> None:
    labelme(shape())(tmp_path)
    put(tmp_path / "z.json", sets.labelme_json("a.png", shape()))
    assert [finding.kind for finding in check(tmp_path).findings] == ["repeated image"]


def test_images_of_one_name_belong_to_the_annotations_of_their_folder(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        picture(tmp_path / folder / "pictures/a.png")
        put(tmp_path / folder / "labels/a.json", sets.labelme_json("a.png", shape(label=folder)))
    index = read(tmp_path)
    assert [Path(path).parts[-3] for path in index.paths()] == ["one", "two"] and index.classes.tolist() == [
        0,
        1,
    ]


def test_split_that_is_not_there(tmp_path: Path) -> None:
    sets.write_voc(tmp_path)
    with pytest.raises(InputError, match=r"there is no test split \(found: train\)"):
        read(tmp_path, "test")


def test_set_without_labels(tmp_path: Path) -> None:
    labelme()(tmp_path)
    with pytest.raises(InputError, match=r"there is no label in its LabelMe files"):
        read(tmp_path)


def test_given_images(tmp_path: Path) -> None:
    sets.write_voc(tmp_path / "set")
    picture(tmp_path / "other/a.png")
    for name in "bc":
        (tmp_path / "set" / f"{name}.xml").unlink()
    source = DataSource(tmp_path / "set", images={"train": tmp_path / "other"})
    assert source.read("train").paths() == [str(tmp_path / "other/a.png")]


def test_index_is_cached_until_a_file_changes(tmp_path: Path) -> None:
    sets.write_labelme(tmp_path)
    source = DataSource(tmp_path)
    assert not source.read("train", keep=True).from_cache
    assert source.read("train", keep=True).from_cache
    content = copy.deepcopy(json.loads((tmp_path / "a.json").read_text()))
    content["shapes"][0]["points"][0] = [2, 12]
    put(tmp_path / "a.json", content)
    index = source.read("train", keep=True)
    assert not index.from_cache and index.boxes[0, 0] == 2
