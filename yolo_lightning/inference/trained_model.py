"""A trained model, whatever runs it: images in, boxes and scores out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..data.image_size import Size, as_size
from ..errors import InputError
from ..model.network import DetectionNetwork, build_network
from ..model.weights import identify_architecture, load_weights, transfer_weights
from ..runs.checkpoint_format import read_resumption
from ..runs.directory import run_directory_of
from ..runs.run_config import CONFIG
from ..runs.run_files import read_content
from ..training.hyper_parameters import architecture_of
from .official_weights import weights_file

IMAGE_SIZE_PX = 640
"""Side of the training images of a model that does not say it."""


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a trained model in every format."""

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...] | None  # COCO id of each class; None if they are unknown
    image_size: Size  # height and width of the training images in px
    stride: int  # sides of its input are multiples of it, in px
    batch_size: int | None = None  # images of each call; None: any number
    input_size: Size | None = None  # height and width of its input in px; None: any
    score_thresholds: tuple[float, ...] | None = None  # of the best F1 of each class; None if unknown


class TrainedModel(Protocol):
    """A trained model in any runtime."""

    facts: ModelFacts

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes and class scores, before suppression.

        Args:
            images: float32 (B, 3, H, W), RGB, 0..1, letterboxed; on the CPU or the device of the model.

        Returns:
            boxes, float32 (B, K, 4) xyxy in px of the input, not clipped; scores, float32 (B, K, C) in 0..1.
        """


class TorchModel:
    """A network of ours as a :class:`TrainedModel`, in evaluation mode.

    Args:
        network: The network with its weights.
        facts: What is known of it.
        device: Where it runs.
    """

    def __init__(self, network: DetectionNetwork, facts: ModelFacts, device: torch.device) -> None:
        self.network = network.to(device).to(memory_format=torch.channels_last).eval()
        self.facts = facts
        self.device = device

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.head.decode(self.network(images.to(self.device)))


def load_network(
    path: str | Path, architecture: str | None = None
) -> tuple[DetectionNetwork, ModelFacts, str]:
    """The network of a checkpoint or of a file of weights, its facts, and its architecture.

    Args:
        path: A checkpoint of a run of ours, whose averaged weights are used, what
            ``model.weights.load_weights`` reads, or the name of official weights, which are fetched.
        architecture: Name or YAML of the model; needed if the file does not tell.

    Raises:
        InputError: The file cannot be read, or its architecture is unknown.
    """
    path = weights_file(path)
    weights = load_weights(path)
    size, category_ids = weights.image_size or IMAGE_SIZE_PX, weights.category_ids
    thresholds = weights.score_thresholds
    if path.suffix == ".ckpt":
        known = read_resumption(path).hyper_parameters
        name: str | None = architecture or architecture_of(known, None, path)
        classes, category_ids = int(known["num_classes"]), known.get("category_ids")
        thresholds = known.get("score_thresholds")
        if run := run_directory_of(path):  # a checkpoint of an earlier version does not tell
            size = (read_content(run, CONFIG) or {}).get("data", {}).get("image_size", size)
        size = known.get("image_size", size)
    else:
        name = architecture or weights.architecture or identify_architecture(weights.state_dict)
        classes = weights.num_classes or 0
    if name is None or not classes:
        raise InputError(
            f"{path}: is none of the known YOLOv5 models; give its YAML as --model.architecture FILE"
        )
    network = build_network(name, classes)
    report = transfer_weights(network, weights)
    if len(report.loaded) < report.total:
        raise InputError(f"{report}; give the architecture that it was trained with")
    names = weights.class_names or tuple(map(str, range(classes)))
    ids = tuple(category_ids) if category_ids else None
    scores = tuple(thresholds) if thresholds else None
    return network, ModelFacts(names, ids, as_size(size), network.stride, score_thresholds=scores), name
