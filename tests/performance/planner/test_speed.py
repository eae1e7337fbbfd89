import pytest

from yolo_lightning.errors import InputError
from yolo_lightning.performance.planner.cards import CARDS, Card, find_card
from yolo_lightning.performance.planner.speed import bound_speed, roofline_seconds
from yolo_lightning.performance.planner.step import StepPlan
from yolo_lightning.performance.planner.trace import Operator


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("nvidia geforce rtx3090", "RTX 3090"),
        ("4090", "RTX 4090"),
        ("3060ti", "RTX 3060 Ti"),
        ("A6000", "RTX A6000"),
        ("RTX 3090 24GB", "RTX 3090"),
        ("T4-16G", "T4"),
        ("RTX 3080 12GB", "RTX 3080-12GB"),
        # As torch.cuda.get_device_name has them.
        ("Tesla V100-SXM2-16GB", "V100-16GB"),
        ("Tesla P100-PCIE-16GB", "P100"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB"),
        ("NVIDIA H100 80GB HBM3", "H100-SXM"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("h100sxm", "H100-SXM"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
    ],
)
def test_names_of_cards_are_found_in_any_spelling(name: str, card: str) -> None:
    assert find_card(name).name == card


def test_each_card_of_the_table_is_found_by_its_name() -> None:
    assert [find_card(card.name) for card in CARDS] == list(CARDS)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("A100", "use A100-40GB, A100-80GB"),
        ("H100", "use H100-PCIe, H100-SXM"),
        ("RTX 3091", "RTX 3090"),
        ("RTX 3060 8GB", "RTX 3060"),  # has 12
        ("RTX 4090 Laptop GPU", "RTX 4090"),  # another card
        ("", "use GTX 1070"),
    ],
)
def test_other_names_get_the_nearest_ones(name: str, near: str) -> None:
    with pytest.raises(InputError, match=f"is not in the table of cards; use .*{near.removeprefix('use ')}"):
        find_card(name)


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
