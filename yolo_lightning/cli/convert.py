"""``yolo-lightning convert``: write a data set of any format that is read as COCO or YOLO."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from ..data.annotations.index import DatasetIndex
from ..data.annotations.write import write_coco, write_yolo
from ..data.module import PATH_OPTIONS, DetectionDataModule
from ..errors import InputError
from .command_parser import FitParser

_OF_DATA = {*PATH_OPTIONS, "format", "val_share", "allow_outside"}


def run_convert(argv: list[str]) -> None:
    """Convert a data set, with the arguments of a command line.

    Raises:
        InputError: The data set is wrong, or the output folder has files.
        SystemExit: Wrong options, or ``--help``.
    """
    description = "Write a data set as COCO or YOLO, with all its splits, for fit --data.root OUTPUT."
    parser = FitParser(prog="yolo-lightning convert", description=description)
    parser.add_argument("--output", type=str, required=True, help="folder to make; it must be empty")
    parser.add_argument("--to", choices=("coco", "yolo"), required=True, help="format to write")
    parser.add_argument(
        "--copy", action="store_true", help="copy the images; otherwise they are hard links where possible"
    )
    others = {*inspect.signature(DetectionDataModule).parameters} - _OF_DATA
    parser.add_class_arguments(DetectionDataModule, "data", skip=others)
    options = parser.parse_args(argv)
    source = DetectionDataModule(**options.data.as_dict()).source
    output = find_new_folder("--output", options.output, source.root)
    indices: dict[str, DatasetIndex] = {split: source.read(split) for split in source.splits()}
    if not indices:
        raise InputError(f"{source.root}: has no split; see docs/data.md for the layout")
    first = next(iter(indices.values()))
    print(f"{first.source}: {first.layout}, {len(first.class_names)} classes", file=sys.stderr)
    if options.to == "coco":
        write_coco(indices, output, options.copy)
    cut = write_yolo(indices, output, options.copy) if options.to == "yolo" else {}
    for split, index in indices.items():
        print(f"{output}: {split} has {len(index):,} images and {len(index.boxes):,} labels")
        for what, count in cut.get(split, {}).items():
            print(f"  {what}: {count:,}")
    print(f"Train on it with: yolo-lightning fit --data.root {options.output}")


def find_new_folder(option: str, name: str, root: Path | None) -> Path:
    """The folder to write a data set to.

    Raises:
        InputError: It has files, or lies in the data set ``root``.
    """
    output = Path(name).expanduser().absolute()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output}: is not an empty folder; give a new one as {option}")
    if root and output.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{output}: lies in the data set and would become part of it; give another {option}")
    return output
