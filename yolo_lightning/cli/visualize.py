"""``yolo-lightning visualize``: pictures of what the layers of a network make of an image."""

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
from ..runs.checkpoint_damage import newest_whole
from ..runs.directory import CONFIG, DEFAULT_NAME, find_checkpoint, run_directory_of
from ..runs.resumption import read_resumption
from ..system.files import write_whole
from .command_parser import RUNS_DIR_HELP, Parser

FOLDER = "visualize"
"""Where the pictures go: in the run directory, or in the working directory for weights of another origin."""
_IMAGE_SIZE_PX = 640
_IOU_THRESHOLD = 0.45
"""Of the detections that lead the attention, as for predict."""
_OPTIONS = {
    "--data.predict_source": "--source",
    "--model.weights": "--weights",
    "model.weights": "--weights",
    "--model.architecture": "--architecture",
    "model.architecture": "--architecture",
}
_DESCRIPTION = """Writes, for each image, a grid of feature maps of each layer (NAME_layerN.png, the
channels that vary most first) and where the network looks (NAME_attention.png, EigenCAM over these layers).

  yolo-lightning visualize --ckpt_path best --layers 10 17 20 23 --source photo.jpg
  yolo-lightning visualize --weights yolov5n.pt --source PHOTOS more.jpg"""


class _Model(NamedTuple):
    """A network that is ready, and what goes with it."""

    network: DetectionNetwork
    image_size: int
    """That it was trained with, px."""
    folder: Path
    """For the pictures."""


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

    Args:
        source: image or folder, or several of them.
        ckpt_path: checkpoint of a run: a path, or ``best`` or ``last`` of the newest run.
        weights: other weights instead, such as an official .pt.
        layers: numbers of layers; those that the head reads if left out (17, 20, 23; with P6 23, 26, 29, 32).
        output: folder for the pictures; ``RUN/visualize``, or ``./visualize`` with ``weights``, if left out.
        image_size: longer side that images are scaled to, px; that of the run, else 640, if left out.
        channels: tiles of a grid at most, 1 or more.
        interpolation: nearest shows the cells as they are, bilinear blurs them into each other.
        architecture: YAML of a model of one's own, where it is not found by itself.
        device: cpu, cuda, cuda:1; a GPU if there is one.
        runs_dir: folder of all runs.
        run_name: of the run that ``best`` and ``last`` belong to.

    Returns:
        The files, image by image.

    Raises:
        InputError: something does not exist, cannot be read or written, or is out of range.
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
    _place(network, device)
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
    """Let errors of the other commands name the options as they are called here."""
    try:
        yield
    except InputError as error:
        sentence = str(error)
        for theirs, ours in _OPTIONS.items():
            sentence = re.sub(rf"(?<![\w.-]){re.escape(theirs)}(?![\w.])", ours, sentence)
        raise InputError(sentence) from error


def _from_checkpoint(ckpt_path: str, runs_dir: str, run_name: str, architecture: str | None) -> _Model:
    """The averaged weights of a run."""
    found = find_checkpoint(ckpt_path, runs_dir, run_name)
    if found is None:  # only where it is "auto"
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


def _place(network: DetectionNetwork, device: str | None) -> None:
    """Bring the network to its device."""
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        network.to(torch.device(name))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: cannot be used ({reason}); leave it out, or use cpu") from None


def _names(paths: Sequence[Path]) -> list[str]:
    """A name for each image: its own without the ending, with a number where that is taken."""
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
    """For each image its pictures, RGB (H, W, 3), by the end of their names."""
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
    """:func:`visualize` with the arguments of a command line.

    Raises:
        InputError: an argument is wrong.
        SystemExit: ``--help``.
    """
    visualize(**vars(_parser().parse_args(argv)))


def _parser() -> Parser:
    usage = "(--ckpt_path CKPT | --weights FILE) --source IMAGE ... [options]"
    parser = Parser("visualize", usage, _DESCRIPTION)
    parser.add_argument("--source", nargs="+", required=True, metavar="IMAGE", help="images or folders")
    parser.add_argument(
        "--ckpt_path", metavar="CKPT", help="a run's checkpoint: a path, or 'best' or 'last' of the newest"
    )
    parser.add_argument("--weights", metavar="FILE", help="other weights, such as an official .pt")
    parser.add_argument(
        "--layers", nargs="+", type=int, metavar="N",
        help="numbers of layers (default: those that the head reads: 17 20 23, with P6 23 26 29 32)",
    )  # fmt: skip
    parser.add_argument(
        "--output", metavar="DIR", help=f"folder for the pictures (default: RUN/{FOLDER}, or {FOLDER})"
    )
    parser.add_argument(
        "--image_size", type=int, metavar="PX",
        help=f"longer side that images are scaled to (default: that of the run, else {_IMAGE_SIZE_PX})",
    )  # fmt: skip
    parser.add_argument("--channels", type=int, default=32, metavar="N", help="tiles of a grid (default: 32)")
    parser.add_argument(
        "--interpolation", choices=get_args(features.Interpolation), default="nearest",
        help="between the cells of a map (default: nearest)",
    )  # fmt: skip
    parser.add_argument(
        "--architecture", metavar="FILE",
        help="YAML of a model of your own, where it is not found by itself",
    )  # fmt: skip
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--runs_dir", default="runs", metavar="DIR", help=RUNS_DIR_HELP)
    parser.add_argument(
        "--run_name", metavar="NAME", help=f"run of 'best' and 'last' (default: {DEFAULT_NAME})"
    )
    return parser
