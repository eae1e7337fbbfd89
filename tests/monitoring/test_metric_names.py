from yolo_lightning.monitoring.metric_names import duration_text, loss_title, number


def test_figures_are_written_for_people() -> None:
    assert [duration_text(s) for s in (8.24, 200, None)] == ["8.2 s", "3 min 20 s", "-"]
    assert [number(0.12345), number(51.23, ".3g")] == ["0.123", "51.2"]
    assert {number(v) for v in (-1, None, float("nan"))} == {"-"}


def test_a_loss_that_nobody_has_named_keeps_its_name() -> None:
    assert [loss_title("obj"), loss_title("new")] == ["objectness loss", "new loss"]
