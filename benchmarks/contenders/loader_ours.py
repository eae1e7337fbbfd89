"""Our training loader alone."""

from __future__ import annotations

from collections.abc import Iterator

from yolo_lightning import DetectionDataModule

from .reading import print_reading
from .steady import arguments, steady_rate


def main() -> None:
    """Build the loader as ``fit`` does, without a Trainer, and take its rate."""
    options = arguments()
    data = DetectionDataModule(
        root=options.root,
        image_size=options.size,
        batch_size=options.batch,
        num_workers=options.workers,
        cache=options.cache,
    )
    data.setup("fit")  # builds the cache; later runs find it
    loader = data.train_dataloader()

    def endless() -> Iterator[int]:
        epoch = 0
        while True:
            loader.sampler.set_epoch(epoch)
            for batch in loader:
                yield len(batch.images)
            epoch += 1

    # A mapped file is read through once before the clock starts.
    warm_up = max(options.warm_up, 0 if options.cache == "none" else len(loader))
    measured = steady_rate(
        endless(), warm_up=warm_up, seconds=options.seconds, least=options.least, workers=options.workers
    )
    print_reading(measured.pop("rate"), **measured, workers=loader.workers, cache=data.loading.cache)


if __name__ == "__main__":
    main()
