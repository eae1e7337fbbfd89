"""``yolo-lightning visualize``: pictures of feature maps, and of the network's attention."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch

from ..data.augment import normalise
from ..data.batch import Batch, move
from ..data.image_size import Size, as_option, checked_size, read_size
from ..data.images.decode import MAX_MEGAPIXELS, content_slice
from ..data.letterbox import letterbox_geometry, to_letterbox
from ..data.loading.dataset import PredictionDataset, collate
from ..data.loading.sources import list_images
from ..errors import InputError
from ..evaluation.detect import detect
from ..inference.trained_model import IMAGE_SIZE_PX, load_network
from ..model.network import DetectionNetwork
from ..monitoring import features
from ..monitoring.pictures.draw_boxes import Pixels, encode
from ..monitoring.pictures.views import SCORE_THRESHOLD
from ..runs.checkpoint_files import newest_whole
from ..runs.directory import DEFAULT_NAME, find_checkpoint, run_directory_of
from ..system.files import write_whole
from ..system.text import printable
from .command_parser import RUNS_DIR_HELP, CommandParser

_FOLDER = "visualize"
"""Folder of the pictures: in the run directory, or in the working directory with --weights."""
_IOU_THRESHOLD = 0.45
"""Limit on overlaps of the detections that guide the attention, as for predict."""
_DESCRIPTION = """Writes, for each image, a grid of the feature maps of each layer (NAME_layerN.png, the
channels with the largest variance first) and the network's attention (NAME_attention.png, EigenCAM over
these layers).

  yolo-lightning visualize --ckpt_path best --layers 10 17 20 23 --source photo.jpg
  yolo-lightning visualize --weights yolov5n.pt --source PHOTOS more.jpg"""


def run_visualize(argv: list[str]) -> list[Path]:
    """Write pictures of feature maps and of the attention, and print their paths.

    Args:
        argv: options; ``--help`` describes them.

    Returns:
        The files, image by image.

    Raises:
        InputError: a file is missing or cannot be read or written, or an option is out of range.
    """
    options = _parser().parse_args(argv)
    if options.channels < 1:
        raise InputError(f"--channels is {options.channels}; give 1 or more")
    try:
        paths = list_images(options.source, options.allow_outside)
        weights, folder = _find(options)
        network, facts, _ = load_network(weights, options.architecture)
    except InputError as error:  # names the options of other commands
        theirs = r"(?<![\w.-])(?:--)?(?:model\.|data\.predict_)(source|weights|architecture)(?![\w.])"
        said = str(error).replace("--data.allow_outside true", "--allow_outside")
        raise InputError(re.sub(theirs, r"--\1", said)) from error
    layers = features.check_layers(network, options.layers or network.head_sources, "--layers")
    stride = facts.stride
    canvas = checked_size(options.image_size or as_option(facts.image_size), stride, "--image_size")
    _move(network, options.device)
    folder = Path(options.output).expanduser() if options.output else folder
    dataset = PredictionDataset(paths, canvas, stride, options.max_megapixels)
    written = []
    for position, name in enumerate(_names(paths)):
        pictures = _draw(network, collate([dataset[position]]), canvas, layers, options)
        for suffix, picture in pictures.items():
            path = folder / f"{name}_{suffix}.png"
            try:
                write_whole(path, encode(picture, ".png"))
            except OSError as error:
                raise InputError(
                    f"{path}: cannot be written ({error.strerror}); give another --output"
                ) from None
            print(printable(str(path)), flush=True)
            written.append(path)
    return written


def _find(options: Namespace) -> tuple[Path, Path]:
    """The file of the weights, and a folder for pictures."""
    if options.weights is not None:
        return Path(options.weights), Path(_FOLDER)
    run_name = options.run_name or DEFAULT_NAME
    found = find_checkpoint(options.ckpt_path, options.runs_dir, run_name)
    if found is None:  # only with "auto"
        where = f"no run of '{run_name}' in {options.runs_dir} has a checkpoint"
        raise InputError(f"--ckpt_path {options.ckpt_path}: {where}")
    run = run_directory_of(found)
    return newest_whole(found, print), run / _FOLDER if run else Path(_FOLDER)


def _move(network: DetectionNetwork, device: str | None) -> None:
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        network.to(torch.device(name))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: cannot be used ({reason}); leave it out, or use cpu") from None


def _names(paths: Sequence[Path]) -> list[str]:
    """A name for each image: its file name without the ending, numbered if several have it."""
    names: dict[str, None] = {}
    for path in paths:
        name, count = path.stem, 2
        while name in names:
            name, count = f"{path.stem}_{count}", count + 1
        names[name] = None
    return list(names)


def _draw(
    network: DetectionNetwork, batch: Batch, image_size: Size, layers: Sequence[int], options: Namespace
) -> dict[str, Pixels]:
    """Pictures of the image of a batch, RGB (H, W, 3), by the suffix of their names."""
    device = next(network.parameters()).device
    batch = move(batch, device)
    raw, found = features.feature_maps(network, normalise(batch.images), layers)
    detections, counts = detect(
        network.head,
        raw,
        batch,
        score_threshold=SCORE_THRESHOLD,
        iou_threshold=_IOU_THRESHOLD,
        multi_label=False,
    )
    boxes = to_letterbox(detections[0, : int(counts[0]), :4], batch.letterbox[0])
    arrays = {number: value[0].float().cpu().numpy() for number, value in found.items()}  # (C, h, w)
    pictures = {
        f"layer{number}": features.draw_grid(array, options.channels, interpolation=options.interpolation)
        for number, array in arrays.items()
    }
    image: Pixels = batch.images[0].permute(1, 2, 0).cpu().numpy()  # (H, W, 3)
    height, width = image.shape[:2]
    attention = features.attention_map(list(arrays.values()), boxes.cpu().numpy(), (height, width))
    rows, columns = batch.original_sizes[0].tolist()
    content = content_slice(letterbox_geometry(rows, columns, image_size, (height, width), rounding=round))
    return pictures | {"attention": features.draw_overlay(image[content], attention[content])}


def _parser() -> CommandParser:
    usage = "(--ckpt_path CKPT | --weights FILE) --source IMAGE ... [options]"
    parser = CommandParser("visualize", usage, _DESCRIPTION)
    parser.add_argument("--source", nargs="+", required=True, metavar="IMAGE", help="images or folders")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--ckpt_path", metavar="CKPT", help="a run's checkpoint: a path, or 'best' or 'last' of the newest"
    )
    source.add_argument("--weights", metavar="FILE", help="other weights, such as an official .pt")
    parser.add_argument(
        "--layers",
        nargs="+",
        type=int,
        metavar="N",
        help="numbers of layers (default: those that the head reads: 17 20 23; P6: 23 26 29 32)",
    )
    parser.add_argument(
        "--output", metavar="DIR", help=f"folder for the pictures (default: RUN/{_FOLDER}, or {_FOLDER})"
    )
    parser.add_argument(
        "--image_size",
        type=read_size,
        metavar="PX",
        help=f"longer side of the scaled images, or height,width (default: the run's, else {IMAGE_SIZE_PX})",
    )
    parser.add_argument("--allow_outside", action="store_true", help="follow links that lead out of a folder")
    parser.add_argument(
        "--max_megapixels",
        type=int,
        default=MAX_MEGAPIXELS,
        metavar="N",
        help=f"largest image that is decoded, in millions of px (default: {MAX_MEGAPIXELS})",
    )
    parser.add_argument("--channels", type=int, default=32, metavar="N", help="tiles of a grid (default: 32)")
    parser.add_argument(
        "--interpolation",
        choices=get_args(features.Interpolation),
        default="nearest",
        help="nearest shows the cells of a map, bilinear blends them (default: nearest)",
    )
    parser.add_argument("--architecture", metavar="FILE", help="YAML of your own model, if it is not found")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--runs_dir", default="runs", metavar="DIR", help=RUNS_DIR_HELP)
    parser.add_argument("--run_name", metavar="NAME", help=f"run of 'best', 'last' (default: {DEFAULT_NAME})")
    return parser
