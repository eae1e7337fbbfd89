"""The training loader of ultralytics alone, as its detection trainer builds it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .reading import print_reading
from .steady import arguments, steady_rate


def main() -> None:
    """Take its rate with its default augmentation, mosaic in every image."""
    from ultralytics.cfg import get_cfg
    from ultralytics.data import build_dataloader, build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset

    options = arguments()
    configuration: Any = get_cfg(overrides={"imgsz": options.size, "task": "detect", "mosaic": 1.0})
    data = check_det_dataset(str(Path(options.root) / "data.yaml"))
    dataset = build_yolo_dataset(configuration, data["train"], options.batch, data, mode="train", stride=32)
    loader = build_dataloader(dataset, options.batch, options.workers, shuffle=True)

    def endless() -> Iterator[int]:
        while True:
            for batch in loader:
                yield len(batch["img"])

    measured = steady_rate(
        endless(),
        warm_up=options.warm_up,
        seconds=options.seconds,
        least=options.least,
        workers=options.workers,
    )
    print_reading(measured.pop("rate"), **measured, workers=loader.num_workers)


if __name__ == "__main__":
    main()
