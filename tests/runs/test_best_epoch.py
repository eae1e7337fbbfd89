import math

import pytest

from yolo_lightning.runs.best_epoch import best_row, is_better, is_judged


def test_a_score_is_judged_if_there_was_something_to_find() -> None:
    assert [is_judged(score) for score in (0.0, 0.5, -1.0, math.nan, -math.inf)] == [True, True, *[False] * 3]


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
