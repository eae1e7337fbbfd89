"""Built-in data set: coloured shapes on textured backgrounds, JPEG files with a COCO JSON.

It shows the whole way from files to a trained detector in minutes on any machine. The class is the shape;
colour, size, angle, texture and place are random.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .image_size import Size

CLASS_NAMES = ("circle", "square", "triangle", "star", "ring")
MANIFEST = "synthetic.json"
TRAIN_IMAGES = 1200
VAL_IMAGES = 200
IMAGE_SIZE_PX = 320

_GENERATOR_VERSION = 1  # change it with the pictures, or old folders would be reused
_LEAST_NUMBERS = {"train_images": 1, "val_images": 1, "image_size": 64, "seed": 0}
_JPEG_QUALITY = 90
_LEAST_VISIBLE = 0.6  # least visible part of each shape
_GRAIN = 4.0  # sensor noise, standard deviation in grey levels of 255
_SUBPIXEL_BITS = 4
_Bytes = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float32]


def make_dataset(
    root: Path | str,
    *,
    train_images: int = TRAIN_IMAGES,
    val_images: int = VAL_IMAGES,
    image_size: int = IMAGE_SIZE_PX,
    seed: int = 0,
) -> Path:
    """Write the data set, unless it exists already; returns ``root`` as an absolute path.

    The layout is COCO's: ``annotations/instances_{train,val}.json`` and ``images/{train,val}/*.jpg``. A box
    encloses the visible pixels of a shape. Every shape is annotated: a place where it would hide more than
    40 % of another is not used. A picture depends on (seed, split, number) alone.

    The folder gets its name when it is complete, so that an interruption leaves no partial data set, and two
    processes may make the same one at once.

    Args:
        image_size: Longer side of a picture, in px; the shorter is as long, or three quarters of it.

    Raises:
        InputError: A number is out of range, or ``root`` cannot be made or holds something else.
    """
    root = Path(root).expanduser().absolute()
    numbers = {"train_images": train_images, "val_images": val_images, "image_size": image_size, "seed": seed}
    for name, value in numbers.items():
        if value < (least := _LEAST_NUMBERS[name]):
            raise InputError(f"{name} is {value}: give a whole number of at least {least}.")
    settings = {"generator_version": _GENERATOR_VERSION, **numbers}
    if _is_complete(root, settings):
        return root
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        workshop = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    except OSError as error:
        raise InputError(
            f"{root.parent} cannot be written to ({error.strerror}): name another folder."
        ) from None
    try:
        building = workshop / root.name
        boxes = {
            split: _write_split(building, split, count, image_size, seed)
            for split, count in (("train", train_images), ("val", val_images))
        }
        manifest = {"settings": settings, "opencv": cv2.__version__, "boxes": boxes}
        (building / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
        os.replace(building, root)
    except OSError:
        if not _is_complete(root, settings):  # another process was first
            raise
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return root


def _is_complete(root: Path, settings: dict[str, int]) -> bool:
    """True if ``root`` holds the data set of ``settings``, False if it is yet to be made; else raises."""
    if root.is_file():
        raise InputError(f"{root} is a file: give the name of a folder to make.")
    if not root.exists() or not any(root.iterdir()):
        return False
    try:
        found = json.loads((root / MANIFEST).read_text())["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        problem = f"is not empty and has no readable {MANIFEST}"
        raise InputError(f"{root} {problem}: name a new folder, or remove this one.") from None
    if found != settings:
        raise InputError(
            f"{root / MANIFEST} says that the folder was made with other settings ({found}, not {settings}): "
            "name a new folder, or remove this one."
        )
    for split in ("train", "val"):
        files = sum(1 for _ in (root / "images" / split).glob("*.jpg"))
        annotations = root / "annotations" / f"instances_{split}.json"
        if files != settings[f"{split}_images"] or not annotations.is_file():
            raise InputError(
                f"{root} has lost files of its {split} split: remove the folder and make it again."
            )
    return True


def _write_split(root: Path, split: str, count: int, image_size: int, seed: int) -> int:
    """Write the pictures of a split and their COCO JSON; returns the number of boxes."""
    folder = root / "images" / split
    folder.mkdir(parents=True)

    def make(number: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        # A generator of its own for each picture: threads may draw in any order.
        picture, shapes = draw_picture(np.random.default_rng([seed, int(split == "val"), number]), image_size)
        path = folder / f"{number:06d}.jpg"
        if not cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]):
            raise OSError(f"could not write {path}")
        height, width = picture.shape[:2]
        image = {"id": number, "file_name": path.name, "width": width, "height": height}
        return image, [{"image_id": number, "iscrowd": 0, **shape} for shape in shapes]

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        made = list(pool.map(make, range(1, count + 1)))
    annotations = [shape for _, shapes in made for shape in shapes]
    document = {
        "info": {"description": "yolo-lightning synthetic shapes", "version": str(_GENERATOR_VERSION)},
        "images": [image for image, _ in made],
        "annotations": [{"id": number, **shape} for number, shape in enumerate(annotations, start=1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASS_NAMES, start=1)],
    }
    path = root / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))
    return len(annotations)


def draw_picture(rng: np.random.Generator, image_size: int | Size) -> tuple[_Bytes, list[dict[str, Any]]]:
    """Draw one picture with a longer side of ``image_size`` px, or of that height and width.

    Returns:
        uint8 (H, W, 3) BGR, and for each shape ``category_id`` (from 1), ``bbox`` [x, y, w, h] in px around
        its visible pixels and ``area``, the number of those pixels.
    """
    if isinstance(image_size, int):
        short = image_size * 3 // 4
        height, width = [(image_size, image_size), (short, image_size), (image_size, short)][rng.integers(3)]
    else:
        height, width = image_size
    canvas = _background(rng, height, width)
    owner = np.zeros((height, width), np.uint8)  # 0 background, n the n-th shape
    full_area = [height * width]
    labels: list[int] = []
    for _ in range(0 if rng.random() < 0.06 else int(rng.integers(1, 7))):
        if placed := _place_shape(rng, owner, full_area):  # otherwise the picture has one shape less
            labels.append(placed[0])
            _paint(rng, canvas, placed[1])
    canvas += _GRAIN * rng.standard_normal((height, width, 1), dtype=np.float32)
    picture = canvas.clip(0, 255).astype(np.uint8)
    visible = [(label, (owner == n).view(np.uint8)) for n, label in enumerate(labels, start=1)]
    return picture, [
        {"category_id": label + 1, "bbox": list(cv2.boundingRect(mask)), "area": cv2.countNonZero(mask)}
        for label, mask in visible
    ]


def _place_shape(rng: np.random.Generator, owner: _Bytes, full_area: list[int]) -> tuple[int, _Floats] | None:
    """Find a place that leaves every shape visible, and enter the shape into ``owner`` and ``full_area``.

    Returns its class and coverage, float32 (H, W) in 0..1; None if no try found a place.
    """
    height, width = owner.shape
    low, high = (0.09, 0.16) if rng.random() < 0.15 else (0.16, 0.5)  # of the longer side of the picture
    radius = max(width, height) * float(np.exp(rng.uniform(math.log(low), math.log(high)))) / 2
    label = int(rng.integers(len(CLASS_NAMES)))
    outline = _OUTLINES[CLASS_NAMES[label]](rng)
    for _ in range(8):
        # a fifth of the radius may lie outside the picture
        centre = [rng.uniform(0.8 * radius, side - 0.8 * radius) for side in (width, height)]
        cover = np.zeros((height, width), np.uint8)
        corners = [(ring * radius + centre) * 2**_SUBPIXEL_BITS for ring in outline]
        points = [np.round(ring).astype(np.int32) for ring in corners]
        cv2.fillPoly(cover, points, 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        inside = cover >= 128
        hidden = np.bincount(owner[inside], minlength=len(full_area))
        seen = np.bincount(owner.ravel(), minlength=len(full_area)) - hidden
        if all(seen[n] >= _LEAST_VISIBLE * full_area[n] for n in range(1, len(full_area))):
            owner[inside] = len(full_area)
            full_area.append(int(np.count_nonzero(inside)))
            return label, (cover / 255).astype(np.float32)
    return None


def _paint(rng: np.random.Generator, canvas: _Floats, cover: _Floats) -> None:
    """Blend a shaded colour that stands out from its surroundings into ``canvas`` (H, W, 3)."""
    x, y, width, height = cv2.boundingRect((cover > 0).astype(np.uint8))
    box = np.s_[y : y + height, x : x + width]
    behind = canvas[box].mean(axis=(0, 1))
    colour = rng.uniform(0, 255, 3)
    while np.abs(colour - behind).sum() < 150:
        colour = rng.uniform(0, 255, 3)
    shade = _ramp(rng, height, width) * rng.uniform(0, 50) - 25
    grain = rng.normal(0, rng.uniform(0, 8), (height, width))
    paint = (colour + (shade + grain)[..., None]).astype(np.float32)  # (h, w, 3)
    alpha = cover[box][..., None]
    canvas[box] = canvas[box] * (1 - alpha) + paint * alpha


def _background(rng: np.random.Generator, height: int, width: int) -> _Floats:
    """A gradient with octaves of noise and, at times, stripes and thin lines: float32 (H, W, 3), 0..255."""
    first, second = rng.uniform(30, 225, (2, 3)).astype(np.float32)
    if rng.random() < 0.5:  # half of the backgrounds hold one hue
        second = first + np.float32(rng.uniform(-40, 40))
    ramp = _ramp(rng, height, width)[..., None]
    canvas = first + (second - first) * ramp
    noise = np.zeros((64, 64, 3), np.float32)
    for cells in (4, 16, 64):
        octave = rng.normal(0, rng.uniform(2, 16), (cells, cells, int(rng.choice([1, 3])))).astype(np.float32)
        octave = np.broadcast_to(octave, (cells, cells, 3))  # one channel is grey noise
        noise += cv2.resize(octave.copy(), (64, 64), interpolation=cv2.INTER_CUBIC)
    canvas += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.35:
        phase = _ramp(rng, height, width) * np.float32(2 * math.pi * rng.uniform(6, 30))
        canvas += (np.sin(phase) * np.float32(rng.uniform(5, 20)))[..., None]
    if rng.random() < 0.4:
        for _ in range(int(rng.integers(1, 5))):
            ends = rng.uniform(0, [width, height], (2, 2)).round().astype(int)
            colour = tuple(float(value) for value in rng.uniform(0, 255, 3))
            cv2.line(canvas, ends[0].tolist(), ends[1].tolist(), colour, int(rng.integers(1, 3)))
    return np.asarray(canvas, dtype=np.float32)


def _ramp(rng: np.random.Generator, height: int, width: int) -> _Floats:
    """A plane from 0 to 1 in a random direction: float32 (H, W)."""
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    plane = x * math.cos(angle) + y * math.sin(angle)
    return np.asarray((plane - plane.min()) / max(float(np.ptp(plane)), 1e-6), dtype=np.float32)


def _polygon(radii: list[float], corners: int, angle: float) -> npt.NDArray[np.float64]:
    """Corners (corners, 2) x, y around the origin; their distances to it cycle through ``radii``."""
    angles = angle + np.arange(corners) * (2 * math.pi / corners)
    distance = np.resize(np.asarray(radii), corners)
    return np.stack((np.cos(angles), np.sin(angles)), axis=1) * distance[:, None]


def _tilt(rng: np.random.Generator) -> float:
    """An angle from -20 to 20 degrees, in radians."""
    return float(rng.uniform(-math.pi / 9, math.pi / 9))


# The outlines of each class at radius 1; an inner outline is a hole.
_OUTLINES: dict[str, Callable[[np.random.Generator], list[npt.NDArray[np.float64]]]] = {
    "circle": lambda rng: [_polygon([1.0], 64, 0.0)],
    "square": lambda rng: [_polygon([1.2], 4, math.pi / 4 + _tilt(rng))],
    "triangle": lambda rng: [_polygon([1.15], 3, -math.pi / 2 + _tilt(rng))],
    "star": lambda rng: [_polygon([1.15, 0.48], 10, -math.pi / 2 + _tilt(rng))],
    "ring": lambda rng: [_polygon([1.0], 64, 0.0), _polygon([rng.uniform(0.5, 0.62)], 64, 0.0)],
}
