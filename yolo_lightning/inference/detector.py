"""A trained model for images, videos and cameras: ``Detector("best.ckpt")("photo.jpg")``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..data.batch import Batch, move
from ..data.image_size import SizeOption, as_option, as_size, checked_size
from ..data.images.decode import Pixels, read_rgb
from ..data.loading.dataset import prediction_canvas
from ..data.loading.sources import find_sources, is_stream
from ..data.loading.video import Letterboxing, letterboxed, stream_batches
from ..errors import InputError
from ..system.background import made_ahead
from ..system.cores import usable_cores
from ..training.hyper_parameters import NO_THRESHOLDS
from ..training.precision import has_native_bf16
from .detections import Detections
from .finder import Finder, Model, model_of
from .options import Classes, FindOptions
from .runtimes import open_model
from .trained_model import TorchModel, TrainedModel

_MOST_WAITING = 4
"""Most images that wait in memory for others of their shape, in batches: each file may have its own."""
Loaded = tuple[int, str | None, Pixels]
"""Position of an image, its path, and its pixels."""


class Detector:
    """Finds objects in images, videos and streams, as ``yolo-lightning predict`` does.

    Args:
        model: checkpoint, weights or exported model; of several, the candidates are joined.
        device: such as ``cpu`` or ``cuda:1``; by default a GPU if there is one.
        image_size: longer side of the scaled images in px, or [height, width] that they are scaled into; by
            default that of the training.
        score_threshold: lowest score of a detection, 0..1; auto: that of the best F1 of each class, which a
            checkpoint has from its last validation.
        iou_threshold: IoU above which only the best of two boxes of one class is kept, 0..1.
        max_detections: detections of an image, best first.
        classes: the only classes that are found, by name or number.
        class_agnostic: let a box suppress overlapping ones of other classes, too.
        augment: test-time augmentation, see ``FindOptions``.
        tile_size: side of the tiles of large images in px, see ``FindOptions``; 0: no tiles.
        tile_overlap: least share of a tile that its neighbour shows, too.
        batch_size: most images of a pass.
        architecture: YAML of a model of your own, if the file does not tell it.
        trust: open ``.torchscript`` and ``.pt2``, too, which contain programs.

    Attributes:
        names: name of each class.

    Raises:
        InputError: a file cannot be read, or an option is out of range.
    """

    def __init__(
        self,
        model: str | Path | Sequence[str | Path],
        *,
        device: str | torch.device | None = None,
        image_size: SizeOption | None = None,
        score_threshold: float | Literal["auto"] = 0.25,
        iou_threshold: float = 0.45,
        max_detections: int = 300,
        classes: Classes | None = None,
        class_agnostic: bool = False,
        augment: bool = False,
        tile_size: int = 0,
        tile_overlap: float = 0.2,
        batch_size: int = 16,
        architecture: str | None = None,
        trust: bool = False,
    ) -> None:
        options = FindOptions(max_detections, classes, class_agnostic, augment, tile_size, tile_overlap)
        for name, value in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
            is_share = isinstance(value, int | float | np.floating) and 0 <= value <= 1
            if not is_share and (name, value) != ("score_threshold", "auto"):
                raise InputError(f"{name} is {value}; give a number from 0 to 1")
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; give 1 or more")
        self.device = usable_device(device)
        paths = [model] if isinstance(model, str | Path) else list(model)
        if not paths:
            raise InputError("no model is given; give a checkpoint, weights or an exported model")
        models = [open_model(path, self.device, architecture, trust) for path in paths]
        facts = models[0].facts
        for path, other in zip(paths, models, strict=True):
            if other.facts.class_names != facts.class_names:
                raise InputError(f"{path}: has other classes than {paths[0]}; give models of one data set")
        self.names = facts.class_names
        least: float | torch.Tensor
        if score_threshold == "auto":
            if len(facts.score_thresholds or ()) != len(self.names):
                raise InputError(f"{paths[0]}: {NO_THRESHOLDS}")
            least = torch.tensor(facts.score_thresholds, device=self.device)
        else:
            least = score_threshold
        self._paths, self._architecture = paths, architecture
        self._finder = Finder([_as_model(one) for one in models], self.names, options, least, iou_threshold)
        self._how = _letterboxing(models, image_size, options)
        self._batch_size = batch_size

    def __call__(
        self, source: Any, *, bgr: bool = False, video_stride: int = 1
    ) -> Detections | list[Detections] | Iterator[Detections]:
        """Find objects.

        Args:
            source: path of an image or a video, folder, pattern, ``.txt`` list, address, number of a camera,
                PIL image, array uint8 (H, W, 3), tensor (3, H, W) or (B, 3, H, W) of uint8 or of floats
                0..1; or a list of these.
            bgr: arrays have the channel order of OpenCV; otherwise RGB.
            video_stride: frames of a video or stream from one that is looked at to the next.

        Returns:
            The detections of one image; a list of them for several images; an iterator, which reads as it
            advances, if a source is a video or stream.

        Raises:
            InputError: a source cannot be read.
        """
        if video_stride < 1:
            raise InputError(f"video_stride is {video_stride}; give 1 or more")
        images: list[str | Pixels] = []
        streams: list[str] = []
        is_one = not isinstance(source, list | tuple)
        for one in [source] if is_one else source:
            if isinstance(one, str | Path | int):
                name = str(one.absolute() if isinstance(one, Path) else one)
                found = _find(name)
                is_one = is_one and (is_stream(name) or found.images == [Path(name).absolute()])
                images += map(str, found.images)
                streams += found.streams
            else:
                arrays = _as_arrays(one, bgr)
                is_one = is_one and getattr(one, "ndim", 3) < 4
                images += arrays
        if streams:
            return self._follow(images, streams, video_stride)
        results = self._look_at(images)
        return results[0] if is_one else results

    def export(self, *formats: str, **options: Any) -> list[Path]:
        """Write the model in other formats and verify them, with the options and results of ``export_model``.

        The size and the thresholds of this detector do not count: give ``image_size=320``, ``nms=True``,
        ``score_threshold=0.4``.

        Raises:
            InputError: see ``export_model``; or the detector joins several models.
        """
        from ..cli.export import export_model  # the one import against the order of the rooms

        if len(self._paths) > 1:
            raise InputError(f"the detector joins {len(self._paths)} models; export each of them alone")
        own = {"model__architecture": self._architecture} if self._architecture else {}
        return export_model(self._paths[0], *formats, **own, **options)

    def _follow(
        self, images: list[str | Pixels], streams: list[str], video_stride: int
    ) -> Iterator[Detections]:
        """Detections of images, then those of frames."""
        yield from self._look_at(images)
        batches = stream_batches([*enumerate(streams)], self._how, self._batch_size, video_stride)
        with closing(batches):
            for frames, batch in batches:
                for frame, table in zip(frames, self._detect(batch), strict=True):
                    yield Detections(table, self.names, streams[frame.stream], frame.number, frame.pixels)

    def _look_at(self, images: list[str | Pixels]) -> list[Detections]:
        """Detections of images, which are looked at in batches of one shape."""
        results: dict[int, Detections] = {}
        with closing(made_ahead(self._batches(images))) as batches:
            for group, batch in batches:
                for (position, path, pixels), table in zip(group, self._detect(batch), strict=True):
                    kept = pixels if path is None else None  # a file is read again
                    results[position] = Detections(table, self.names, path, None, kept)
        return [results[position] for position in range(len(images))]

    def _batches(self, images: list[str | Pixels]) -> Iterator[tuple[list[Loaded], Batch]]:
        waiting: dict[tuple[int, int], list[Loaded]] = {}
        for position, path, pixels in _loaded(images):
            height, width = pixels.shape[:2]
            image_size, stride, canvas = self._how
            canvas = canvas or prediction_canvas((height, width), image_size, stride)
            group = waiting.setdefault(canvas, [])
            group.append((position, path, pixels))
            if len(group) == self._batch_size:
                yield self._together(waiting.pop(canvas))
            elif sum(map(len, waiting.values())) == _MOST_WAITING * self._batch_size:
                yield self._together(waiting.pop(max(waiting, key=lambda shape: len(waiting[shape]))))
        for group in waiting.values():
            yield self._together(group)

    def _together(self, group: list[Loaded]) -> tuple[list[Loaded], Batch]:
        return group, letterboxed([pixels for *_, pixels in group], self._how, range(len(group)))

    def _detect(self, batch: Batch) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        """Tables float32 (n, 6) of the images of a batch, in the precision of ``predict``."""
        is_bf16 = self.device.type == "cuda" and has_native_bf16("cuda")
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=is_bf16):
            detections, counts = self._finder(move(batch, self.device))
        tables = detections.float().cpu().numpy()
        return [table[:count].copy() for table, count in zip(tables, counts.tolist(), strict=True)]


def usable_device(device: str | torch.device | None) -> torch.device:
    """The device of a name; by default a GPU if there is one.

    Raises:
        InputError: it cannot be used.
    """
    wanted = ("cuda" if torch.cuda.is_available() else "cpu") if device is None else device
    try:
        return torch.empty(1, device=wanted).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device {wanted}: cannot be used ({reason}); leave it out, or give cpu or cuda:0"
        ) from None


def _letterboxing(
    models: Sequence[TrainedModel], image_size: SizeOption | None, options: FindOptions
) -> Letterboxing:
    """How images are scaled for models.

    Raises:
        InputError: a model does not take images of the size that is asked for.
    """
    stride = max(model.facts.stride for model in models)
    fixed = {model.facts.input_size for model in models if model.facts.input_size}
    others = fixed - {as_size(image_size)} if image_size else set()
    if fixed and (len(fixed) > 1 or options.augment or options.tile_size or others):
        sizes = " and ".join(f"{width} x {height} px" for height, width in fixed)
        raise InputError(
            f"a model takes images of {sizes} alone; leave image_size, augment and tile_size out, and join "
            "only models of one size, or export with --dynamic"
        )
    if fixed:
        return Letterboxing(None, stride, fixed.pop())
    size = checked_size(image_size or as_option(models[0].facts.image_size), stride, "image_size")
    return Letterboxing(None if options.tile_size else size, stride)


def _as_model(model: TrainedModel) -> Model:
    if isinstance(model, TorchModel):
        return model_of(model.network)
    return Model(model, model.facts.stride, int(math.log2(model.facts.stride)) - 2)


def _find(source: str) -> Any:
    try:
        return find_sources(source)
    except InputError as error:  # names the option of predict
        raise InputError(str(error).replace("--data.predict_source", "the source")) from None


def _loaded(images: list[str | Pixels]) -> Iterator[Loaded]:
    """Images in order; files are decoded by threads, a few at a time."""
    threads = min(usable_cores(), len(images)) or 1
    positions = iter(range(len(images)))

    def load(position: int) -> Loaded:
        image = images[position]
        return (position, image, read_rgb(image)) if isinstance(image, str) else (position, None, image)

    with ThreadPool(threads) as pool:
        while some := list(islice(positions, 2 * threads)):
            yield from pool.map(load, some, chunksize=1)


def _as_arrays(image: Any, bgr: bool) -> list[Pixels]:
    """An image or a batch of images in memory as uint8 RGB (H, W, 3)."""
    if isinstance(image, Image.Image):
        if image.mode in ("I", "F"):
            raise InputError(
                "a PIL image has pixels of 32 bits, which have no fixed white; convert it to 8 bits"
            )
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):  # "RGB" would cut them off at 255; a file gives the upper byte, too
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return [np.asarray(image.convert("RGB"))]
    if isinstance(image, Tensor):
        tensor = image.detach().cpu()
        if tensor.is_floating_point():
            if not ((tensor > -0.5) & (tensor < 1.5)).all():  # a little over 0..1 comes from interpolation
                raise InputError(
                    "a tensor of floats has values outside 0..1; divide by 255, normalise no further"
                )
            tensor = (tensor.float() * 255).round().clamp(0, 255).byte()
        is_image = tensor.ndim in (3, 4) and tensor.shape[-3] == 3 and 0 not in tensor.shape[-2:]
        if tensor.dtype == torch.uint8 and is_image:
            arrays = tensor.movedim(-3, -1).numpy()
            return [arrays] if tensor.ndim == 3 else list(arrays)
        raise InputError(
            f"a tensor is {image.dtype} of shape {tuple(image.shape)}; give (3, H, W) or (B, 3, H, W), "
            "of uint8 or of floats 0..1"
        )
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
        image = image[..., None] if image.ndim == 2 else image
        if image.ndim in (3, 4) and image.shape[-1] in (1, 3, 4):
            image = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image[..., :3]
            image = np.ascontiguousarray(image[..., ::-1] if bgr else image)
            return [image] if image.ndim == 3 else list(image)
    shape = f"{image.dtype} array of shape {image.shape}" if isinstance(image, np.ndarray) else type(image)
    raise InputError(f"a source is a {shape}; give a path, a PIL image, or an array uint8 (H, W, 3)")
