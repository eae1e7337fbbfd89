"""How the memory of our loader's workers grows over epochs."""

from __future__ import annotations

import argparse
import os
from typing import Any

from yolo_lightning import DetectionDataModule

from .process_memory import children, private_mb, status_mb
from .reading import print_reading

_WORKERS = 2


def main() -> None:
    """Run the loader alone and compare its workers after the first epoch and after the last."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", required=True)
    parser.add_argument("--size", type=int, required=True, help="px")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    print_reading(**measure(**vars(parser.parse_args())))


def measure(root: str, size: int, batch: int, epochs: int) -> dict[str, Any]:
    """Growth in percent as ``value``, and what it comes from, in MB for each worker.

    Args:
        root: of the data set.
        size: of its images in px.
        batch: images of a batch.
        epochs: 2 or more.
    """
    before = set(children(os.getpid()))
    data = DetectionDataModule(
        root=root, image_size=size, batch_size=batch, num_workers=_WORKERS, cache="none"
    )
    data.setup("fit")
    loader = data.train_dataloader()
    first: dict[int, dict[str, float]] = {}
    images = 0
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        images += sum(len(b.images) for b in loader)
        if epoch == 0:
            workers = [pid for pid in children(os.getpid()) if pid not in before]
            first = {pid: _memory(pid) for pid in workers}
    last = {pid: _memory(pid) for pid in first}
    growth = [100 * (last[pid]["resident"] / first[pid]["resident"] - 1) for pid in first]
    return {
        "value": max(growth),
        "private_growth_mb": max(last[pid]["private"] - first[pid]["private"] for pid in first),
        "workers": len(first),
        "epochs": epochs,
        "images_loaded": images,
        "after_first_epoch_mb": list(first.values()),
        "after_last_epoch_mb": list(last.values()),
    }


def _memory(pid: int) -> dict[str, float]:
    return {
        "resident": status_mb(pid, "VmRSS"),
        "anonymous": status_mb(pid, "RssAnon"),
        "private": private_mb(pid),
    }


if __name__ == "__main__":
    main()
