import pytest

from yolo_lightning.errors import InputError
from yolo_lightning.performance.planner.cards import CARDS, Card, find_card
from yolo_lightning.performance.planner.speed import bound_speed, roofline_seconds
from yolo_lightning.performance.planner.step import StepPlan
from yolo_lightning.performance.planner.trace import Operator


def test_names_of_cards_are_found_in_any_spelling() -> None:
    assert find_card("nvidia geforce rtx3090").memory_gb == pytest.approx(25.77, abs=0.01)
    assert find_card("A100-40GB").bandwidth == 1555
    with pytest.raises(InputError, match="A100: is not in the table of cards; use A100-40GB, A100-80GB"):
        find_card("A100")
    with pytest.raises(InputError, match="RTX 3090"):
        find_card("RTX 3091")
    assert len({card.name for card in CARDS}) == len(CARDS)


def test_the_bracket_is_a_share_of_arithmetic_and_traffic_worked_by_hand() -> None:
    card = Card("a card", 1, bandwidth=100, half_tflops=10, single_tflops=1, has_bf16=True)
    operators = [
        Operator("convolution", 10**11, 10**8),  # half: 10 ms of arithmetic, 1 ms of traffic
        Operator("convolution", 10**9, 10**9),  # 0.1 ms and 10 ms
        Operator("silu", 0, 2 * 10**9),  # 20 ms
    ]
    speed = bound_speed(StepPlan(8, {}, {}, operators), card, is_half=True)
    assert speed.low == pytest.approx(8 / (0.04 / 0.2))
    assert speed.high == pytest.approx(8 / (0.04 / 0.7))
    assert speed.bound_by == "memory bandwidth"
    in_single = bound_speed(StepPlan(8, {}, {}, operators), card, is_half=False)
    assert in_single.high == pytest.approx(8 / (0.13 / 0.7))
    assert in_single.bound_by == "arithmetic"
    by_name = roofline_seconds(StepPlan(8, {}, {}, operators), card, is_half=True)
    assert by_name == pytest.approx({"convolution": 0.02, "silu": 0.02})


def test_a_small_step_is_bound_by_the_host_that_launches_it() -> None:
    operators = [Operator("silu", 0, 1000)] * 2000
    speed = bound_speed(StepPlan(1, {}, {}, operators), find_card("H200"), is_half=True)
    assert speed.bound_by == "launches"
    assert speed.low == pytest.approx(1 / (2000 * 6e-6))
