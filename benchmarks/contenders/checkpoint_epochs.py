"""Our ``fit`` with saves after every batch of some epochs: what one save adds to an epoch, in percent."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from yolo_lightning.__main__ import main as yolo_lightning

from .checkpoint_clock import AlternatingCheckpoints
from .epochs import arguments
from .reading import print_reading
from .train_ours import command_line, newest_run, settings_of


def main() -> None:
    """Run ``fit`` in this process with the callback, and print what it showed."""
    options, further = arguments()
    clock = "--trainer.callbacks+=benchmarks.contenders.checkpoint_clock.AlternatingCheckpoints"
    yolo_lightning(command_line(options, [clock, *further]))
    saved_s, unsaved_s = AlternatingCheckpoints.saved_s, AlternatingCheckpoints.unsaved_s
    percent = added_percent(saved_s, unsaved_s, AlternatingCheckpoints.batches)
    print_reading(
        statistics.median(percent),
        percent=percent,
        saved_s=saved_s,
        unsaved_s=unsaved_s,
        saves=AlternatingCheckpoints.saves,
        held_ms=1e3 * AlternatingCheckpoints.stall_s / AlternatingCheckpoints.saves,
        **settings_of(newest_run(options.runs)),
    )


def added_percent(saved_s: Sequence[float], unsaved_s: Sequence[float], saves: int) -> list[float]:
    """What one save adds to an epoch, from each two epochs with saves and the two without between them.

    Args:
        saved_s: of epochs with saves.
        unsaved_s: of those between.
        saves: in each epoch that has any.
    """
    fours = zip(saved_s[::2], saved_s[1::2], unsaved_s[::2], unsaved_s[1::2], strict=False)
    return [100 * ((first + last) / (second + third) - 1) / saves for first, last, second, third in fours]


if __name__ == "__main__":
    main()
