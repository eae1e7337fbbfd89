"""Training of ultralytics/yolov5: images a second of its training epochs."""

from __future__ import annotations

import sys
from pathlib import Path

from .epochs import EpochTimer, arguments, print_epochs


def main() -> None:
    """Run ``train`` as its command line does, with callbacks that take the time.

    Further options (``--cache ram``) go to it as they are.
    """
    options, further = arguments()
    sys.argv = [
        "train",
        *("--weights", options.weights),
        *("--data", str(Path(options.root) / "data.yaml")),
        *("--imgsz", str(options.size)),
        *("--batch-size", str(options.batch)),
        *("--epochs", str(options.epochs)),
        *("--seed", str(options.seed)),
        *("--workers", "2"),
        *("--device", "cpu"),
        *("--project", options.runs),
        "--noplots",
        *further,
    ]
    from yolov5 import train  # type: ignore[import-not-found]  # in its own environment
    from yolov5.utils.callbacks import Callbacks  # type: ignore[import-not-found]

    timer, callbacks = EpochTimer(), Callbacks()
    callbacks.register_action("on_train_epoch_start", callback=timer.start)
    callbacks.register_action("on_train_epoch_end", callback=timer.stop)  # before its validation
    train.main(train.parse_opt(), callbacks)
    images = len([path for path in (Path(options.root) / "images" / "train").iterdir() if path.is_file()])
    print_epochs(timer, images)


if __name__ == "__main__":
    main()
