import math

import pytest

from yolo_lightning.errors import InputError
from yolo_lightning.runs.best_epoch import best_row, checked_monitor, is_better, is_judged, mode_of


def test_a_score_is_judged_if_there_was_something_to_find() -> None:
    scores = (0.0, 0.5, -1.0, math.nan, -math.inf, math.inf)
    assert [is_judged(score) for score in scores] == [True, True, *[False] * 4]


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.1, 0.3, 0.3, 0.2], 1),  # the first of equals
        ([0.0, 0.0], 0),
        ([-1.0, -1.0, -1.0], 2),  # the newest, while none is judged
        ([None, 0.2, None], 1),
        ([0.2, math.nan, -1.0], 0),
        ([None, None], 1),
    ],
)
def test_one_epoch_is_the_best_by_rows_and_one_after_another(scores: list[float | None], best: int) -> None:
    rows = [{"epoch": float(n)} | ({} if s is None else {"val/map": s}) for n, s in enumerate(scores)]
    assert best_row(rows)["epoch"] == best
    so_far: tuple[int, float] | None = None
    for epoch, score in enumerate(-1.0 if s is None else s for s in scores):
        if is_better(score, so_far and so_far[1]):
            so_far = epoch, score
    assert so_far is not None and so_far[0] == best


def test_of_losses_the_smallest_is_best() -> None:
    rows = [{"epoch": float(n), "val/box_loss": s, "val/map": s} for n, s in enumerate((0.2, 0.1, 0.1, 0.3))]
    assert best_row(rows, "val/box_loss")["epoch"] == 1
    assert best_row([{"epoch": 9.0, "val/box_loss": math.nan}, *rows], "val/box_loss")["epoch"] == 1
    assert [mode_of(name) for name in ("val/loss", "val/dfl_loss", "val/map", "val/map_class/loss")] == [
        "min", "min", "max", "max",
    ]  # fmt: skip


def test_a_monitor_is_a_metric_of_the_validation() -> None:
    classes = ["cat", "a dog"]
    for name in ("val/map_50", "val/f1", "val/obj_loss", "val/loss", "val/map_class/a dog"):
        assert checked_monitor(name) == checked_monitor(name, classes) == name
    assert [checked_monitor(name) for name in ("fitness", "map_class/cat")] == [
        "val/fitness", "val/map_class/cat",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"did you mean val/box_loss\?"):
        checked_monitor("val/bx_loss")  # no epoch would ever be the best
    with pytest.raises(InputError, match=r"monitor is 'val/map50', .*did you mean val/map_50\?"):
        checked_monitor("val/map50")
    with pytest.raises(
        InputError, match=r"which no validation of this network logs; .* val/obj_loss, val/cls_loss, "
    ):
        checked_monitor("val/dfl_loss", classes, ("box", "obj", "cls"))
    with pytest.raises(InputError, match="did you mean val/map_class/a dog"):
        checked_monitor("val/map_class/dog", classes)
    for name in ("train/box_loss", "xyz", "val/f1_confidence_class/cat"):
        with pytest.raises(InputError, match="no validation of this network logs"):
            checked_monitor(name, classes)
