"""``yolo-lightning synth``: write the built-in data set."""

from __future__ import annotations

import json
from pathlib import Path

from jsonargparse import auto_cli

from ..data.synthetic import CLASS_NAMES, IMAGE_SIZE_PX, MANIFEST, TRAIN_IMAGES, VAL_IMAGES, make_dataset
from .command_parser import FitParser


def run_synth(argv: list[str]) -> None:
    """Write the data set with the arguments of a command line."""
    auto_cli(
        synth,
        args=argv,
        as_positional=False,
        prog="yolo-lightning synth",
        parser_class=FitParser,
        description="Make a small data set of shapes, to try everything on.",
    )


def synth(
    output: str,
    train_images: int = TRAIN_IMAGES,
    val_images: int = VAL_IMAGES,
    image_size: int = IMAGE_SIZE_PX,
    seed: int = 0,
) -> None:
    """Write a small detection data set, shapes on textured backgrounds, as JPEG files with a COCO JSON.

    Args:
        output: folder to make; one that already holds the same data set is left as it is.
        train_images: number of pictures to train on, 1 or more.
        val_images: number of pictures to validate on, 1 or more.
        image_size: longer side of a picture, in px, 64 or more.
        seed: another seed gives other pictures, 0 or more.
    """
    root = make_dataset(
        Path(output), train_images=train_images, val_images=val_images, image_size=image_size, seed=seed
    )
    boxes = json.loads((root / MANIFEST).read_text())["boxes"]
    print(
        f"{root} holds {train_images} pictures to train on ({boxes['train']} boxes) and {val_images} to "
        f"validate on ({boxes['val']} boxes) of {len(CLASS_NAMES)} classes: {', '.join(CLASS_NAMES)}."
    )
    print(f"Train on it with: yolo-lightning fit --data.root {output}")
