"""Ultralytics ``.pt``: u models for ``ultralytics.YOLO``, to predict, validate, train and export with it."""

from __future__ import annotations

from pathlib import Path

import torch

from ..data.image_size import as_option
from ..model.architecture import read_architecture
from ..model.blocks import build_model
from ..system.environment import package_version
from .formats import ExportOptions, ExportSource


def write(source: ExportSource, path: Path, options: ExportOptions) -> None:
    """Write a checkpoint without an optimizer, as ultralytics' trainer leaves it."""
    network = source.network
    description, _, activation = read_architecture(source.architecture)
    model = build_model(description, activation, network.head.num_classes)
    model.load_state_dict(network.state_dict())
    settings = {"task": "detect", "model": path.name, "imgsz": as_option(source.facts.image_size)}
    model.names, model.args, model.task = dict(enumerate(source.facts.class_names)), settings, "detect"
    model = (model.half() if options.half else model).eval().requires_grad_(False)
    content = {"epoch": -1, "best_fitness": None, "model": model, "ema": None, "updates": None}
    content |= {"optimizer": None, "train_args": settings, "version": package_version("ultralytics")}
    torch.save(content, path)
