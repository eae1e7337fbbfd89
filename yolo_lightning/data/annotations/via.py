"""Reader of VGG Image Annotator (VIA) JSON: its annotations and projects of versions 1 to 3."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from .outlines import Box, around, around_ellipse
from .records import Label, NotLabelledError, Record, RecordReader

_ONE_OF = ("dropdown", "radio", 3, 4)  # kinds of attributes that have one of some values; numbers: VIA 3
_SHAPES = {
    2: "rect x y width height",
    3: "circle cx cy r",
    4: "ellipse cx cy rx ry theta",
    1: "point",
    5: "line",
}
"""Shapes of VIA 3 and the meaning of their numbers; polylines (6) and polygons (7) have points."""
_UNNAMED = "object"


@dataclass(frozen=True)
class ViaReader(RecordReader):
    """Regions of images. The class is the only attribute, or the only dropdown or radio button."""

    name = "via"
    title = "VGG Image Annotator"

    @staticmethod
    def recognises(document: Any) -> bool:
        if not isinstance(document, dict) or not document:
            return False
        images = document.get("_via_img_metadata", document)
        if not isinstance(images, dict):
            return False
        if {"file", "view", "metadata"} <= images.keys():
            return True
        keys = ({*entry} if isinstance(entry, dict) else set() for entry in images.values())
        return all({"filename", "regions"} <= entry for entry in keys)

    @staticmethod
    def entries(document: Any, path: Path) -> Iterable[Any]:
        if "metadata" in document:
            images, attributes = _version_3(document)
        else:
            images = list(document.get("_via_img_metadata", document).values())
            attributes = document.get("_via_attributes", {}).get("region", {})
        key = _class_attribute(images, attributes, path)
        return [(image, key) for image in images]

    @staticmethod
    def record(entry: Any, path: Path) -> Record:
        image, key = entry
        regions = image["regions"]
        regions = list(regions.values()) if isinstance(regions, dict) else regions
        return Record([image["filename"]], [(region, key) for region in regions])

    @staticmethod
    def label(item: Any, record: Record) -> Label:
        region, key = item
        value = region["region_attributes"][key] if key else _UNNAMED
        if isinstance(value, dict):  # checkboxes
            value = next((name for name, is_set in value.items() if is_set), "")
        return Label(str(value), _box(region["shape_attributes"]))


def _class_attribute(images: list[Any], attributes: Any, path: Path) -> str | None:
    """The key of ``region_attributes`` that has the class; None if no region has attributes."""
    used: dict[str, None] = {}
    for image in images:
        regions = image.get("regions") or {}
        for region in regions.values() if isinstance(regions, dict) else regions:
            used |= dict.fromkeys(region.get("region_attributes") or {})
    if len(used) <= 1:
        return next(iter(used), None)
    choices = [key for key in used if attributes.get(key, {}).get("type") in _ONE_OF]
    if len(choices) == 1:
        return choices[0]
    keys = ", ".join(choices or used)
    raise InputError(
        f"{path}: regions have several attributes ({keys}), and which is the class cannot be told; "
        "make the class the only dropdown or radio button in VIA, or remove the others"
    )


def _box(shape: Any) -> Box:
    kind = shape["name"]
    if kind in ("rect", "rectangle"):
        x, y = float(shape["x"]), float(shape["y"])
        return x, y, x + float(shape["width"]), y + float(shape["height"])
    if kind == "circle":
        return around_ellipse(shape["cx"], shape["cy"], shape["r"], shape["r"])
    if kind == "ellipse":
        radians = float(shape.get("theta") or 0)
        return around_ellipse(shape["cx"], shape["cy"], shape["rx"], shape["ry"], radians)
    if kind in ("polygon", "polyline"):
        return around(shape["all_points_x"], shape["all_points_y"], least=3)
    raise NotLabelledError(f"a {kind} has no box")


def _version_3(project: Any) -> tuple[list[Any], dict[str, Any]]:
    """The images of a project of VIA 3 as version 2 writes them, and its attributes."""
    attributes = {a["aname"]: {"type": a["type"]} for a in project["attribute"].values()}
    images = {
        key: {"filename": project["file"][str(view["fid_list"][0])]["fname"], "regions": []}
        for key, view in project["view"].items()
        if view["fid_list"]
    }
    for entry in project["metadata"].values():
        if not entry["xy"]:  # about the whole image
            continue
        code, *numbers = entry["xy"]
        if code in (6, 7):
            shape = {"name": "polygon", "all_points_x": numbers[::2], "all_points_y": numbers[1::2]}
        else:
            kind, *keys = _SHAPES.get(code, "shape").split()
            shape = {"name": kind, **dict(zip(keys, numbers, strict=False))}
        chosen = {}
        for number, value in entry["av"].items():
            attribute = project["attribute"][number]
            chosen[attribute["aname"]] = attribute.get("options", {}).get(value, value)
        images[entry["vid"]]["regions"].append({"shape_attributes": shape, "region_attributes": chosen})
    return list(images.values()), attributes
