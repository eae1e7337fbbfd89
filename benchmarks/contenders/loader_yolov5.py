"""The training loader of ultralytics/yolov5 alone, as its ``train.py`` builds it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from .reading import print_reading
from .steady import arguments, steady_rate


def main() -> None:
    """Take its rate with the augmentation of ``hyp.scratch-low.yaml``, mosaic in every image."""
    import yolov5  # type: ignore[import-not-found]  # in its own environment
    from yolov5.utils.dataloaders import create_dataloader  # type: ignore[import-not-found]

    options = arguments()
    settings = Path(yolov5.__file__).parent / "data" / "hyps" / "hyp.scratch-low.yaml"
    loader, _ = create_dataloader(
        str(Path(options.root) / "images" / "train"),
        options.size,
        options.batch,
        32,
        False,
        hyp=yaml.safe_load(settings.read_text()),
        augment=True,
        workers=options.workers,
        shuffle=True,
    )

    def endless() -> Iterator[int]:
        while True:
            for images, *_ in loader:
                yield len(images)

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
