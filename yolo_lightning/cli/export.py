"""``yolo-lightning export``: writes a trained model in other formats, and verifies each at once."""

from __future__ import annotations

import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.annotations.index import DatasetIndex
from ..data.image_size import Size, as_option, checked_size, read_size
from ..data.module import DetectionDataModule
from ..data.synthetic import make_dataset
from ..errors import InputError
from ..export import verification
from ..export.formats import FORMATS, ExportOptions, ExportSource, find_format, load_source
from ..inference.runtimes import open_model
from ..inference.trained_model import TorchModel, TrainedModel
from ..runs.checkpoint_files import newest_whole
from ..runs.directory import DEFAULT_NAME, find_checkpoint
from ..system.text import printable
from .command_parser import RUNS_DIR_HELP, FitParser
from .main import as_call, as_text

CALIBRATION_IMAGES = 300
"""Largest number of images with which INT8 measures ranges."""
_DESCRIPTION = """Write a trained model in other formats. Each file is run at once on some images and compared
with the model that it came from; a difference above the tolerance is status 1, and keeps the file. With
--data.root the images are those of its val split, and the table has the mAP on all of them."""


def run_export(argv: list[str]) -> None:
    """Export a model with the arguments of a command line.

    Raises:
        InputError: An option is wrong, a file cannot be read, or a library is missing.
        SystemExit: With status 1 if an export differs from its source; wrong options, or ``--help``.
    """
    _, wrong = _export(argv)
    if wrong:
        print(f"error: {', '.join(wrong)}: differs from the source by more than allowed", file=sys.stderr)
        sys.exit(1)


def export_model(model: str | Path, *formats: str, **options: Any) -> list[Path]:
    """Write a trained model in other formats and verify them, as ``yolo-lightning export`` does.

    Args:
        model: checkpoint or weights.
        *formats: names of the formats, such as ``onnx``.
        **options: options of ``export`` by their names on the command line, with two underscores for a dot:
            ``nms=True``, ``image_size=320``, ``data__root="DIR"``.

    Returns:
        The file or folder of each format.

    Raises:
        InputError: an option is wrong, a file cannot be read, a library is missing, or an export differs from
            the model by more than allowed; its file is kept.
    """
    kind = "ckpt_path" if Path(model).suffix == ".ckpt" else "model.weights"
    given = {kind: model} | {name.replace("__", "."): value for name, value in options.items()}
    flags = [f"--{name}" for name, value in given.items() if value is True]
    values = [
        f"--{name}={as_text(name, value)}" for name, value in given.items() if not isinstance(value, bool)
    ]
    with as_call("export_model"):
        paths, wrong = _export(["--format", *formats, *flags, *values])
    if wrong:
        raise InputError(f"{', '.join(wrong)}: differs from {model} by more than allowed")
    return paths


def _export(argv: list[str]) -> tuple[list[Path], list[str]]:
    """Export a model: paths that were written, and the names of the formats that differ from their source."""
    given = _parser().parse_args(argv)
    weights = _find_weights(given)
    source = load_source(weights, given.model.architecture)
    option = given.image_size or as_option(source.facts.image_size)
    size = checked_size(option, source.facts.stride, "--image_size")
    if given.int8 and given.data.root is None:
        raise InputError("--int8 measures ranges on training images; give their data set as --data.root")
    options = _options(given, size)
    formats = {name: find_format(name, options) for name in given.format}
    for form in formats.values():
        form.check(source)
    folder = Path(given.output).expanduser() if given.output else _folder_of(weights, given)
    with tempfile.TemporaryDirectory() as drawn:
        root = given.data.root or str(make_dataset(Path(drawn) / "shapes", train_images=1, val_images=16))
        data = DetectionDataModule(**{**given.data.as_dict(), "root": root, "image_size": option})
        index = data.indices.inspect("val")
        if given.data.root:
            verification.refuse_other_classes(index, len(source.facts.class_names))
        if given.int8:
            images = _calibration_images(data.indices.inspect("train"), options)
            options = ExportOptions(**{**vars(options), "calibration": images})
        paths: list[Path] = []
        table = _Table(source, index, options, has_truth=given.data.root is not None)
        for name, form in formats.items():
            path = form.path(folder, weights.stem, options)
            if path.resolve() == weights.resolve():
                raise InputError(f"{path}: is the model itself; give another --output")
            try:
                form.write(source, path, options)
            except OSError as error:
                raise InputError(
                    f"{path}: cannot be written ({error.strerror}); give another --output"
                ) from None
            paths.append(path)
            table.add(name, path, open_model(path, trust=True) if form.is_runnable else None)
    return paths, table.wrong


class _Table:
    """The table of exports; a row is printed when it is known.

    Args:
        source: What is exported.
        index: Images on which models are compared.
        options: Options of the export.
        has_truth: The images are the user's, so that mAP means something.
    """

    def __init__(
        self, source: ExportSource, index: DatasetIndex, options: ExportOptions, has_truth: bool
    ) -> None:
        self.wrong: list[str] = []
        self._index, self._options, self._has_truth = index, options, has_truth
        some = index.subset(np.arange(min(verification.IMAGES, len(index))))
        self._batches = list(verification.letterboxed(some, options.image_size, options.batch_size))
        self._source = TorchModel(source.network, source.facts, torch.device("cpu"))
        self._wanted = self._value(self._source)
        _print_row("format", "score", "box px", "lost", "mAP", "MB", "ms", "file")
        speed = verification.latency_ms(self._source, options)
        _print_row("source", "", "", "", _as_text(self._wanted), "", f"{speed:.1f}", "")

    def add(self, name: str, path: Path, model: TrainedModel | None) -> None:
        """Compare an export with its source; None cannot be run here."""
        size = f"{verification.size_mb(path):.1f}"
        if model is None:
            _print_row(name, "", "", "", "", size, "", str(path))
            return
        comparison = verification.compare(self._source, model, self._batches, self._options)
        value = self._value(model)
        if self._options.int8:
            is_right = self._wanted - value <= verification.MAP_LOSS
        else:
            is_right = comparison.is_within(verification.tolerance_of(self._options))
        if not is_right:
            self.wrong.append(name)
        _print_row(
            name,
            f"{comparison.score:.1e}",
            f"{comparison.box_px:.1e}",
            f"{comparison.lost}/{comparison.detections}",
            _as_text(value),
            size,
            f"{verification.latency_ms(model, self._options):.1f}",
            str(path),
        )

    def _value(self, model: TrainedModel) -> float:
        """The mAP on the user's images; NaN without them."""
        if not self._has_truth:
            return math.nan
        return verification.mean_average_precision(model, self._index, self._options)


def _as_text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"


def _print_row(*cells: str) -> None:
    line = "{:<13} {:>8} {:>8} {:>9} {:>6} {:>7} {:>7}  {}".format(*cells)
    print(printable(line.rstrip()), flush=True)


def _find_weights(given: Any) -> Path:
    if (given.ckpt_path is None) == (given.model.weights is None):
        raise InputError("give the model to export: either --ckpt_path CKPT or --model.weights FILE")
    if given.model.weights is not None:
        return Path(given.model.weights).expanduser()
    found = find_checkpoint(given.ckpt_path, given.runs_dir, given.run_name)
    if found is None:  # only with "auto"
        raise InputError(f"--ckpt_path {given.ckpt_path}: no run in {given.runs_dir} has a checkpoint")
    return newest_whole(found, print)


def _folder_of(weights: Path, given: Any) -> Path:
    """The folder of a checkpoint; with weights of others the working directory."""
    return weights.parent if given.ckpt_path is not None else Path()


def _options(given: Any, size: Size) -> ExportOptions:
    for name, least in (("batch_size", 1), ("max_detections", 1)):
        if (value := getattr(given, name)) < least:
            raise InputError(f"--{name} is {value}; give {least} or more")
    if not 13 <= given.opset <= 20:
        raise InputError(f"--opset is {given.opset}; give a number from 13 to 20")
    for name in ("score_threshold", "iou_threshold"):
        if not 0 <= (value := getattr(given, name)) <= 1:
            raise InputError(f"--{name} is {value}; give a number from 0 to 1")
    names = ("batch_size", "dynamic", "half", "int8", "nms", "score_threshold", "iou_threshold")
    if given.half and given.int8:
        raise InputError("--half and --int8 exclude each other; give one of them")
    values = {name: getattr(given, name) for name in (*names, "max_detections", "opset")}
    return ExportOptions(size, **values)


def _calibration_images(index: DatasetIndex, options: ExportOptions) -> torch.Tensor:
    """Letterboxed images evenly spread over a split, uint8 (N, 3, H, W); some twice if a batch lacks some."""
    batch_size = options.batch_size
    count = math.ceil(min(CALIBRATION_IMAGES, len(index)) / batch_size) * batch_size
    some = index.subset(np.linspace(0, len(index) - 1, count, dtype=np.int64))
    return torch.cat([batch.images for batch in verification.letterboxed(some, options.image_size, 16)])


def _parser() -> FitParser:
    parser = FitParser(prog="yolo-lightning export", description=_DESCRIPTION)
    parser.add_argument("--ckpt_path", metavar="CKPT", help="a run's checkpoint: a path, or 'best' or 'last'")
    parser.add_argument("--model.weights", metavar="FILE", help="other weights, such as an official .pt")
    parser.add_argument(
        "--model.architecture", metavar="A", help="name or YAML of the model, if it is not found"
    )
    parser.add_argument("--format", nargs="+", required=True, choices=list(FORMATS), help="formats to write")
    parser.add_argument(
        "--output", metavar="DIR", help="folder (default: the checkpoint's, or the current one)"
    )
    parser.add_argument(
        "--image_size",
        type=read_size,
        metavar="PX",
        help="side of the input, or height,width (default: the training's)",
    )
    for name, value, words in (
        ("batch_size", 1, "images of a call"),
        ("max_detections", 300, "with --nms, rows of the output for an image"),
        ("opset", 18, "version of the ONNX operators"),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, metavar="N", help=words)
    for name, threshold, words in (
        ("score_threshold", 0.25, "with --nms, score above which a box is a detection"),
        ("iou_threshold", 0.45, "with --nms, greatest IoU of two detections of one class"),
    ):
        parser.add_argument(f"--{name}", type=float, default=threshold, metavar="X", help=words)
    for name, words in (
        ("dynamic", "leave batch and size open; with --nms the size alone"),
        ("half", "weights in half precision; input and output stay float32"),
        ("int8", "8-bit integers, with ranges measured on the train split of --data.root"),
        ("nms", "suppress overlapping boxes within the model"),
    ):
        parser.add_argument(f"--{name}", action="store_true", help=words)
    parser.add_argument("--runs_dir", default="runs", metavar="DIR", help=RUNS_DIR_HELP)
    parser.add_argument("--run_name", default=DEFAULT_NAME, metavar="NAME", help="run of 'best' and 'last'")
    parser.add_class_arguments(DetectionDataModule, "data", skip={"image_size", "batch_size"})
    return parser
