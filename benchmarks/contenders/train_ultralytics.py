"""Training of ultralytics' anchor-free yolov5nu from scratch: images a second of its training epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .epochs import EpochTimer, arguments, print_epochs


def main() -> None:
    """Run its trainer; further options are ``name=value`` as in its own command line, and ``threads=N``."""
    options, further = arguments()
    import torch
    import yaml
    from ultralytics import YOLO

    settings: dict[str, Any] = {}
    for word in further:
        name, text = word.split("=", 1)
        settings[name] = yaml.safe_load(text)
    threads = settings.pop("threads", None)
    timer = EpochTimer()
    model: Any = YOLO("yolov5n.yaml")  # builds the u model
    if threads:  # its own choice is the number of cores less one
        model.add_callback("on_train_epoch_start", lambda _: torch.set_num_threads(threads))
    model.add_callback("on_train_epoch_start", timer.start)
    model.add_callback("on_train_epoch_end", timer.stop)  # before its validation
    images = 0

    def count(trainer: Any) -> None:
        nonlocal images
        images = len(trainer.train_loader.dataset)

    model.add_callback("on_train_start", count)
    model.train(
        data=str(Path(options.root) / "data.yaml"),
        imgsz=options.size,
        batch=options.batch,
        epochs=options.epochs,
        seed=options.seed,
        workers=2,
        device="cpu",
        plots=False,
        project=options.runs,
        close_mosaic=0,  # its last ten epochs are without mosaic otherwise, which here would be all
        **settings,
    )
    print_epochs(timer, images, parameters=sum(p.numel() for p in model.model.parameters()))


if __name__ == "__main__":
    main()
