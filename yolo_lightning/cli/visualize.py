"""``yolo-lightning visualize``: pictures of feature maps, and of the network's attention."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, get_args

import torch
import yaml

from ..data.augment import normalise
from ..data.batch import Batch
from ..data.images.decode import content_slice
from ..data.letterbox import letterbox_geometry, to_letterbox
from ..data.loading.dataset import PredictionDataset, collate, list_images
from ..errors import InputError
from ..evaluation.detect import detect
from ..model.network import DetectionNetwork, build_network
from ..model.weights import LoadedWeights, identify_architecture, load_weights, transfer_weights
from ..monitoring import features
from ..monitoring.pictures import SCORE_THRESHOLD, Pixels, encode
from ..runs.checkpoint_files import newest_whole
from ..runs.checkpoint_format import read_resumption
from ..runs.directory import CONFIG, DEFAULT_NAME, find_checkpoint, run_directory_of
from ..system.files import write_whole
from .command_parser import RUNS_DIR_HELP, CommandParser

FOLDER = "visualize"
"""Folder of the pictures: in the run directory, or in the working directory with --weights."""
_IMAGE_SIZE_PX = 640
_IOU_THRESHOLD = 0.45
"""Limit on overlaps of the detections that guide the attention, as for predict."""
_OPTIONS = {
    "--data.predict_source": "--source",
    "--model.weights": "--weights",
    "model.weights": "--weights",
    "--model.architecture": "--architecture",
    "model.architecture": "--architecture",
}
"""Options of other commands, as errors name them, and their names here."""
_DESCRIPTION = """Writes, for each image, a grid of the feature maps of each layer (NAME_layerN.png, the
channels with the largest variance first) and the network's attention (NAME_attention.png, EigenCAM over
these layers).

  yolo-lightning visualize --ckpt_path best --layers 10 17 20 23 --source photo.jpg
  yolo-lightning visualize --weights yolov5n.pt --source PHOTOS more.jpg"""


class _Model(NamedTuple):
    """A network with its weights."""

    network: DetectionNetwork
    image_size: int
    """Image size of its training, px."""
    folder: Path
    """Folder for the pictures."""


def visualize(
    source: str | Sequence[str],
    *,
    ckpt_path: str | None = None,
    weights: str | None = None,
    layers: Sequence[int] | None = None,
    output: str | None = None,
    image_size: int | None = None,
    channels: int = 32,
    interpolation: features.Interpolation = "nearest",
    architecture: str | None = None,
    device: str | None = None,
    runs_dir: str = "runs",
    run_name: str | None = None,
) -> list[Path]:
    """Write pictures of feature maps and of the attention, and print their paths.

    The arguments are the options of the command; ``--help`` describes them.

    Returns:
        The files, image by image.

    Raises:
        InputError: a file is missing or cannot be read or written, or an option is out of range.
    """
    if (ckpt_path is None) == (weights is None):
        how = "not both of them" if ckpt_path else "for whose feature maps to draw"
        raise InputError(f"give either --ckpt_path or --weights, {how}")
    if channels < 1:
        raise InputError(f"--channels is {channels}; give 1 or more")
    with _own_options():
        paths = list_images(source)
        if ckpt_path is not None:
            model = _from_checkpoint(ckpt_path, runs_dir, run_name or DEFAULT_NAME, architecture)
        else:
            model = _from_weights(str(weights), architecture)
    network = model.network
    chosen = features.head_layers(network) if layers is None else layers
    chosen = features.check_layers(network, chosen, "--layers")
    size = _check_size(image_size or model.image_size, max(network.strides))
    _move(network, device)
    folder = Path(output).expanduser() if output else model.folder
    drawn = _draw(network, paths, size, chosen, channels, interpolation)
    written = []
    for name, pictures in zip(_names(paths), drawn, strict=True):
        for suffix, picture in pictures.items():
            written.append(_write(folder / f"{name}_{suffix}.png", picture))
            print(written[-1], flush=True)
    return written


@contextmanager
def _own_options() -> Iterator[None]:
    """Replace the names of other commands' options in errors."""
    try:
        yield
    except InputError as error:
        sentence = str(error)
        for theirs, ours in _OPTIONS.items():
            sentence = re.sub(rf"(?<![\w.-]){re.escape(theirs)}(?![\w.])", ours, sentence)
        raise InputError(sentence) from error


def _from_checkpoint(ckpt_path: str, runs_dir: str, run_name: str, architecture: str | None) -> _Model:
    """The network of a run with its averaged weights."""
    found = find_checkpoint(ckpt_path, runs_dir, run_name)
    if found is None:  # only with "auto"
        raise InputError(f"--ckpt_path {ckpt_path}: no run of '{run_name}' in {runs_dir} has a checkpoint")
    path = newest_whole(found, print)
    known = read_resumption(path).hyper_parameters
    network = build_network(architecture or known["architecture"], int(known["num_classes"]))
    _load(network, load_weights(path))
    run = run_directory_of(path)
    size = _image_size_of(run / CONFIG) if run else _IMAGE_SIZE_PX
    return _Model(network, size, (run or Path()) / FOLDER)


def _image_size_of(config: Path) -> int:
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    return int(content["data"]["image_size"])


def _from_weights(path: str, architecture: str | None) -> _Model:
    weights = load_weights(path)
    name = architecture or identify_architecture(weights.state_dict)
    if name is None or weights.num_classes is None:
        raise InputError(
            f"--weights {path}: is none of the known YOLOv5 models; give its YAML as --architecture FILE"
        )
    network = build_network(name, weights.num_classes)
    _load(network, weights)
    return _Model(network, _IMAGE_SIZE_PX, Path(FOLDER))


def _load(network: DetectionNetwork, weights: LoadedWeights) -> None:
    report = transfer_weights(network, weights)
    if len(report.loaded) < report.total:
        print(report)


def _check_size(image_size: int, stride: int) -> int:
    if image_size < stride or image_size % stride:
        near = max(stride, round(image_size / stride) * stride)
        raise InputError(f"--image_size {image_size} is not a multiple of {stride}; use {near}")
    return image_size


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
    network: DetectionNetwork,
    paths: Sequence[Path],
    image_size: int,
    layers: Sequence[int],
    channels: int,
    interpolation: features.Interpolation,
) -> Iterator[dict[str, Pixels]]:
    """Pictures of each image, RGB (H, W, 3), by the suffix of their names."""
    dataset = PredictionDataset(paths, image_size, max(network.strides))
    device = next(network.parameters()).device
    for position in range(len(dataset)):
        batch = collate([dataset[position]])
        batch = Batch(*(value.to(device) for value in batch))
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
            f"layer{number}": features.draw_grid(array, channels, interpolation=interpolation)
            for number, array in arrays.items()
        }
        image: Pixels = batch.images[0].permute(1, 2, 0).cpu().numpy()  # (H, W, 3)
        height, width = image.shape[:2]
        attention = features.attention_map(list(arrays.values()), boxes.cpu().numpy(), (height, width))
        rows, columns = batch.original_sizes[0].tolist()
        place = letterbox_geometry(rows, columns, image_size, (height, width), rounding=round)
        content = content_slice(place)
        pictures["attention"] = features.draw_overlay(image[content], attention[content])
        yield pictures


def _write(path: Path, picture: Pixels) -> Path:
    try:
        write_whole(path, encode(picture, ".png"))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); give another --output") from None
    return path


def run_visualize(argv: list[str]) -> None:
    """Run :func:`visualize` with the arguments of a command line."""
    visualize(**vars(_parser().parse_args(argv)))


def _parser() -> CommandParser:
    usage = "(--ckpt_path CKPT | --weights FILE) --source IMAGE ... [options]"
    parser = CommandParser("visualize", usage, _DESCRIPTION)
    parser.add_argument("--source", nargs="+", required=True, metavar="IMAGE", help="images or folders")
    parser.add_argument(
        "--ckpt_path", metavar="CKPT", help="a run's checkpoint: a path, or 'best' or 'last' of the newest"
    )
    parser.add_argument("--weights", metavar="FILE", help="other weights, such as an official .pt")
    parser.add_argument(
        "--layers", nargs="+", type=int, metavar="N",
        help="numbers of layers (default: the layers that the head reads: 17 20 23; P6: 23 26 29 32)",
    )  # fmt: skip
    parser.add_argument(
        "--output", metavar="DIR", help=f"folder for the pictures (default: RUN/{FOLDER}, or {FOLDER})"
    )
    parser.add_argument(
        "--image_size", type=int, metavar="PX",
        help=f"longer side of the scaled images (default: the run's, else {_IMAGE_SIZE_PX})",
    )  # fmt: skip
    parser.add_argument(
        "--channels", type=int, default=32, metavar="N", help="most tiles in a grid (default: 32)"
    )
    parser.add_argument(
        "--interpolation", choices=get_args(features.Interpolation), default="nearest",
        help="nearest shows the cells of a map, bilinear blends them (default: nearest)",
    )  # fmt: skip
    parser.add_argument(
        "--architecture", metavar="FILE",
        help="YAML of a model of your own, if it is not found automatically",
    )  # fmt: skip
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--runs_dir", default="runs", metavar="DIR", help=RUNS_DIR_HELP)
    parser.add_argument(
        "--run_name", metavar="NAME", help=f"run of 'best' and 'last' (default: {DEFAULT_NAME})"
    )
    return parser
