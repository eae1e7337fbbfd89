"""The data sets that contenders read, made once: COCO JSON and YOLO labels of the same images."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from .pictures import encode_jpeg, make_picture
from .plan import Plan

_VERSION = 1  # a change of what is written must change this, or old folders would be used
_SHAPES = ((3, 4), (3, 4), (2, 3), (4, 3))
"""Height to width of COCO-like pictures, as often as they come."""


@dataclass(frozen=True)
class PictureSet:
    """What a made data set is like."""

    name: str
    images: int
    long_side: int
    """px."""
    mean_bytes: int
    """Mean size of a JPEG; wanted of single files is half to one and a half times it."""
    grain: float
    """Standard deviation of the noise in grey levels; a large sensor's picture has less detail a pixel."""
    classes: int = 80
    labels: float = 7.0
    """Mean labels of an image."""
    val_images: int = 16


COCO_LIKE = PictureSet("coco_like", 320, 640, 144_000, 6.0)
# At 3 MB decoding at a quarter of the size costs half of decoding in full, as it does for a camera's
# photograph; the larger the file, the more of both is Huffman decoding, which no scaling spares.
TWELVE_MEGAPIXELS = PictureSet("twelve_megapixels_3mb", 48, 4000, 3_000_000, 4.0, val_images=2)
TOY = PictureSet("toy", 16, 96, 3_000, 6.0, classes=3, labels=2.0, val_images=2)


def make_set(plan: Plan, pictures: PictureSet) -> Path:
    """The folder of a data set as COCO and as YOLO has it; made if need be.

    A picture depends on (split, number) alone. The folder appears under its name when it is complete.
    """
    root = plan.data / f"{pictures.name}_v{_VERSION}"
    with _made_whole(root) as part:
        if part is None:
            return root
        print(f"making {pictures.images} pictures of {pictures.long_side} px in {root}", flush=True)
        for split, count in (("train", pictures.images), ("val", pictures.val_images)):
            _write_split(part, split, count, pictures)
        _write_data_yaml(part, root, [f"class {c}" for c in range(pictures.classes)])
    return root


@contextmanager
def _made_whole(root: Path) -> Iterator[Path | None]:
    """A folder to fill that becomes ``root`` at the end, or None when ``root`` is there."""
    if root.exists():
        yield None
        return
    part = root.with_name(f".{root.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    part.rename(root)


def _write_split(root: Path, split: str, count: int, pictures: PictureSet) -> None:
    for folder in ("annotations", f"images/{split}", f"labels/{split}"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    with ThreadPoolExecutor(2) as pool:
        for i, (height, width, boxes) in enumerate(
            pool.map(lambda number: _write_image(root, split, number, pictures), range(count))
        ):
            images.append({"id": i + 1, "file_name": f"{i:012d}.jpg", "height": height, "width": width})
            for category, *box in boxes:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i + 1,
                        "category_id": category + 1,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
    categories = [{"id": c + 1, "name": f"class {c}"} for c in range(pictures.classes)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


def _write_image(
    root: Path, split: str, number: int, pictures: PictureSet
) -> tuple[int, int, list[tuple[int, ...]]]:
    """Write a picture and its labels; return height and width in px and rows of class, x, y, w, h in px."""
    generator = np.random.default_rng((number, len(split)))
    a, b = _SHAPES[number % len(_SHAPES)] if pictures.long_side < 4000 else (3, 4)
    height, width = (pictures.long_side * side // max(a, b) for side in (a, b))
    target = int(pictures.mean_bytes * generator.uniform(0.5, 1.5))
    jpeg = encode_jpeg(make_picture(height, width, generator, pictures.grain), target)
    (root / "images" / split / f"{number:012d}.jpg").write_bytes(jpeg)
    boxes: list[tuple[int, ...]] = []
    for _ in range(max(1, int(generator.poisson(pictures.labels)))):
        w = int(generator.integers(width // 20 + 1, width // 3))
        h = int(generator.integers(height // 20 + 1, height // 3))
        x, y = int(generator.integers(width - w)), int(generator.integers(height - h))
        boxes.append((int(generator.integers(pictures.classes)), x, y, w, h))
    lines = [
        f"{c} {(x + w / 2) / width:.6f} {(y + h / 2) / height:.6f} {w / width:.6f} {h / height:.6f}\n"
        for c, x, y, w, h in boxes
    ]
    (root / "labels" / split / f"{number:012d}.txt").write_text("".join(lines))
    return height, width, boxes


def _write_data_yaml(folder: Path, root: Path, names: list[str]) -> None:
    content = {"path": str(root), "train": "images/train", "val": "images/val", "names": names}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))


def copy_bccd(plan: Plan) -> Path:
    """A copy of the BCCD data set, because contenders write caches beside the data that they read."""
    assert plan.bccd is not None
    root = plan.data / "bccd"
    with _made_whole(root) as part:
        if part is not None:
            shutil.copytree(plan.bccd, part, dirs_exist_ok=True, copy_function=shutil.copyfile)
            for folder in (part, *(path for path in part.rglob("*") if path.is_dir())):
                folder.chmod(0o755)  # contenders write into it
            names = yaml.safe_load((plan.bccd / "data.yaml").read_text())["names"]
            _write_data_yaml(part, root, list(names.values()) if isinstance(names, dict) else names)
    return root


def make_many_small(plan: Plan, images: int, side: int) -> Path:
    """A data set of the given number of tiny JPEGs, each with two labels, as COCO JSON."""
    root = plan.data / f"small_{images}_{side}px_v{_VERSION}"
    with _made_whole(root) as part:
        if part is None:
            return root
        print(f"making {images} small pictures in {root}", flush=True)
        generator = np.random.default_rng(0)
        jpegs = [encode_jpeg(make_picture(side, side, generator, 6.0), 1 << 20) for _ in range(32)]
        for split, count in (("train", images), ("val", 8)):
            (part / "images" / split).mkdir(parents=True)
            for i in range(count):
                (part / "images" / split / f"{i:012d}.jpg").write_bytes(jpegs[i % len(jpegs)])
            sizes = np.full((count, 2), side)
            _write_coco_json(part, split, sizes, np.repeat(np.arange(count), 2), generator)
    return root


def make_large_json(plan: Plan, images: int, boxes: int) -> Path:
    """A data set of COCO's size whose images are one black picture: for reading its annotations alone."""
    root = plan.data / f"annotated_{images}_{boxes}_v{_VERSION}"
    with _made_whole(root) as part:
        if part is None:
            return root
        print(f"making annotations of {images} images in {root}", flush=True)
        generator = np.random.default_rng(0)
        (part / "images" / "train").mkdir(parents=True)
        sizes = np.tile((480, 640), (images, 1))
        picture = part / "images" / "train" / f"{0:012d}.jpg"
        picture.write_bytes(encode_jpeg(np.zeros((480, 640, 3), np.uint8), 1 << 20))
        for i in range(1, images):
            os.link(picture, picture.with_name(f"{i:012d}.jpg"))
        _write_coco_json(part, "train", sizes, generator.integers(images, size=boxes), generator)
    return root


def _write_coco_json(
    root: Path, split: str, sizes: np.ndarray, owners: np.ndarray, generator: np.random.Generator
) -> None:
    """A COCO JSON of random boxes; ``sizes`` (I, 2) height and width in px, ``owners`` (T,) images."""
    images = [
        {"id": i + 1, "file_name": f"{i:012d}.jpg", "height": height, "width": width}
        for i, (height, width) in enumerate(sizes.tolist())
    ]
    corners = generator.random((len(owners), 2)) * 0.7
    sides = 0.02 + generator.random((len(owners), 2)) * 0.28
    scale = sizes[owners][:, ::-1]
    boxes = np.concatenate((corners * scale, sides * scale), axis=1).round(2)
    categories = generator.integers(1, 81, len(owners)).tolist()
    annotations = [
        {"id": n + 1, "image_id": owner + 1, "category_id": category, "bbox": box, "area": box[2] * box[3],
         "iscrowd": 0}
        for n, (owner, category, box) in enumerate(
            zip(owners.tolist(), categories, boxes.tolist(), strict=True)
        )
    ]  # fmt: skip
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": c + 1, "name": f"class {c}"} for c in range(80)],
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
