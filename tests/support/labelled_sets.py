"""Small data sets as labelling tools write them: one box of 'disc' in each of some images of 64 x 48 px."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tests.support.tiny_data import write_image

BOX = [16.0, 12.0, 32.0, 24.0]
"""The box xyxy in px."""
CORNERS = [[16, 12], [32, 12], [32, 24], [16, 24]]
SIZE = {"width": 64, "height": 48}


def put(path: Path, content: Any) -> Path:
    """Write bytes, a text, or anything else as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes | str):
        content = json.dumps(content, indent=2)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def picture(path: Path) -> Path:
    write_image(path, SIZE["height"], SIZE["width"], seed=sum(path.name.encode()))
    return path


def voc_object(name: str = "disc", box: Any = BOX, extra: str = "") -> str:
    tags = ("xmin", "ymin", "xmax", "ymax")
    edges = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(tags, box, strict=True))
    return (
        f"<object>\n\t\t<name>{name}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n\t\t"
        f"<difficult>0</difficult>{extra}\n\t\t<bndbox>{edges}</bndbox>\n\t</object>"
    )


def voc_xml(
    name: str = "a.png", objects: str | None = None, size: Any = (64, 48), database: str = "Unknown"
) -> str:
    """An XML of labelImg."""
    objects = voc_object() if objects is None else objects
    return (
        f"<annotation>\n\t<folder>pictures</folder>\n\t<filename>{name}</filename>\n\t<path>C:\\Users\\ann\\"
        f"pictures\\{name}</path>\n\t<source>\n\t\t<database>{database}</database>\n\t</source>\n\t<size>\n\t\t"
        f"<width>{size[0]}</width>\n\t\t<height>{size[1]}</height>\n\t\t<depth>3</depth>\n\t</size>\n\t"
        f"<segmented>0</segmented>\n\t{objects}\n</annotation>\n"
    )


def labelme_shape(
    points: Any = CORNERS, kind: str = "polygon", label: str = "disc", group: Any = None
) -> Any:
    return {"label": label, "points": points, "group_id": group, "description": "", "shape_type": kind,
            "flags": {}, "mask": None}  # fmt: skip


def labelme_json(name: str = "a.png", *shapes: Any, data: str | None = None) -> Any:
    return {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": name, "imageData": data,
            "imageHeight": 48, "imageWidth": 64}  # fmt: skip


RECT = {"name": "rect", "x": 16, "y": 12, "width": 16, "height": 12}


def via_region(shape: Any = RECT, **attributes: Any) -> Any:
    return {"shape_attributes": shape, "region_attributes": attributes or {"kind": "disc"}}


def via_image(name: str = "a.png", *regions: Any) -> Any:
    return {"filename": name, "size": 123, "regions": list(regions), "file_attributes": {}}


def vott_asset(name: str = "a.png", *regions: Any, state: int = 2) -> Any:
    path = f"file:C:/Users/ann/my%20pictures/{name}"
    asset = {
        "format": "png",
        "id": "0a1b",
        "name": name,
        "path": path,
        "size": SIZE,
        "state": state,
        "type": 1,
    }
    return {"asset": asset, "regions": list(regions), "version": "2.2.0"}


def vott_region(*tags: str) -> Any:
    points = [{"x": x, "y": y} for x, y in CORNERS]
    box = {"height": 12, "width": 16, "left": 16, "top": 12}
    return {"id": "r1", "type": "RECTANGLE", "tags": list(tags), "boundingBox": box, "points": points}


def supervisely_object(kind: str = "rectangle", points: Any = None, **more: Any) -> Any:
    points = [[16, 12], [32, 24]] if points is None else points
    return {"id": 7, "classId": 1, "labelerLogin": "ann", "tags": [], "classTitle": "disc",
            "geometryType": kind, "points": {"exterior": points, "interior": []}, **more}  # fmt: skip


def supervisely_json(*objects: Any) -> Any:
    return {"description": "", "tags": [], "size": {"height": 48, "width": 64}, "objects": list(objects)}


def supervisely_mask(left: int = 14, top: int = 10) -> Any:
    """A mask of the box, in a bitmap that begins elsewhere."""
    mask = np.zeros((30, 40), np.uint8)
    mask[12 - top : 24 - top, 16 - left : 32 - left] = 255
    png = cv2.imencode(".png", mask)[1].tobytes()
    return {"data": base64.b64encode(zlib.compress(png)).decode(), "origin": [left, top]}


def studio_result(value: Any = None, kind: str = "rectanglelabels", **more: Any) -> Any:
    value = {"x": 25, "y": 25, "width": 25, "height": 25, "rotation": 0} if value is None else value
    return {"original_width": 64, "original_height": 48, "image_rotation": 0, "id": "r1", "type": kind,
            "value": {**value, kind: ["disc"]}, "from_name": "label", "to_name": "image", **more}  # fmt: skip


def studio_task(image: str, *annotations: Any, number: int = 1) -> Any:
    return {"id": number, "annotations": list(annotations), "file_upload": image.split("/")[-1], "drafts": [],
            "predictions": [], "data": {"image": image}, "meta": {}, "project": 1}  # fmt: skip


def studio_annotation(*results: Any, cancelled: bool = False) -> Any:
    return {
        "id": 3,
        "completed_by": 1,
        "result": list(results),
        "was_cancelled": cancelled,
        "ground_truth": False,
    }


def cvat_xml(
    *images: str, labels: str = "<label><name>disc</name></label><label><name>square</name></label>"
) -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n<meta><task>'
        f"<id>4</id><name>shapes</name><labels>{labels}</labels></task><dumped>2024-01-01</dumped></meta>\n"
        f"{''.join(images)}</annotations>\n"
    )


def cvat_image(name: str = "a.png", *shapes: str, subset: str = "default") -> str:
    return f'<image id="0" name="{name}" subset="{subset}" width="64" height="48">{"".join(shapes)}</image>'


CVAT_BOX = (
    '<box label="disc" source="manual" occluded="0" xtl="16.00" ytl="12.00" xbr="32.00" ybr="24.00" '
    'z_order="0"><attribute name="colour">red</attribute></box>'
)
ROW = "0 0.375 0.375 0.25 0.25\n"
"""The box as YOLO label."""

NAMES = ("a.png", "b.png", "c.png")


def write_voc(root: Path) -> None:
    for name in NAMES:
        picture(root / name)
        put(root / f"{name[0]}.xml", voc_xml(name))


def write_labelme(root: Path) -> None:
    for name in NAMES:
        picture(root / name)
        put(root / f"{name[0]}.json", labelme_json(name, labelme_shape()))


def write_via(root: Path) -> None:
    for name in NAMES:
        picture(root / name)
    put(root / "via_region_data.json", {f"{name}123": via_image(name, via_region()) for name in NAMES})


def write_vott(root: Path) -> None:
    for name in NAMES:
        picture(root / name)
    assets = {name: vott_asset(name, vott_region("disc")) for name in NAMES}
    put(
        root / "shapes-export.json",
        {"name": "shapes", "tags": [{"name": "disc", "color": "#f00"}], "assets": assets},
    )


def write_supervisely(root: Path) -> None:
    put(
        root / "meta.json",
        {"classes": [{"title": "disc", "shape": "any"}], "tags": [], "projectType": "images"},
    )
    for name in NAMES:
        picture(root / "ds/img" / name)
        put(root / "ds/ann" / f"{name}.json", supervisely_json(supervisely_object()))


def write_label_studio(root: Path) -> None:
    tasks = []
    for name in NAMES:
        picture(root / name)
        tasks.append(studio_task(f"/data/upload/1/0a1b2c3d-{name}", studio_annotation(studio_result())))
    put(root / "project-1-at-2024-01-01.json", tasks)


def write_cvat(root: Path) -> None:
    for name in NAMES:
        picture(root / "images" / name)
    put(root / "annotations.xml", cvat_xml(*(cvat_image(name, CVAT_BOX) for name in NAMES)))


def write_csv(root: Path) -> None:
    lines = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    for name in NAMES:
        picture(root / "train" / name)
        lines.append(f"{name},64,48,disc,16,12,32,24")
    put(root / "train/_annotations.csv", "\n".join(lines))


def write_darknet(root: Path) -> None:
    put(root / "obj.data", "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    put(root / "obj.names", "disc\n")
    put(root / "train.txt", "".join(f"data/obj_train_data/{name}\n" for name in NAMES))
    for name in NAMES:
        picture(root / "obj_train_data" / name)
        put(root / "obj_train_data" / f"{name[0]}.txt", ROW)


def write_plain_yolo(root: Path) -> None:
    put(root / "classes.txt", "disc\n")
    for name in NAMES:
        picture(root / "images" / name)
        put(root / "labels" / f"{name[0]}.txt", ROW)


def write_single_coco(root: Path) -> None:
    for name in NAMES:
        picture(root / "images/default" / name)
    images = [{"id": n, "file_name": name, **SIZE} for n, name in enumerate(NAMES, start=5)]
    boxes = [{"id": n, "image_id": n, "category_id": 3, "bbox": [16, 12, 16, 12]} for n in range(5, 8)]
    document = {"images": images, "annotations": boxes, "categories": [{"id": 3, "name": "disc"}]}
    put(root / "annotations/instances_default.json", document)


WRITERS: dict[str, Callable[[Path], None]] = {
    "Pascal VOC": write_voc,
    "LabelMe": write_labelme,
    "VGG Image Annotator": write_via,
    "VoTT": write_vott,
    "Supervisely": write_supervisely,
    "Label Studio": write_label_studio,
    "CVAT for images": write_cvat,
    "CSV table": write_csv,
    "Darknet": write_darknet,
    "YOLO without data.yaml": write_plain_yolo,
    "COCO in one file": write_single_coco,
}
"""Writers of three images with one box each, by the layout that the data set must be called."""
