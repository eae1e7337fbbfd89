import copy

import torch
from torch import nn

from yolo_lightning.training.step import GradientAccumulator


def test_a_window_is_full_after_as_many_batches() -> None:
    accumulator = GradientAccumulator()
    full = []
    for accumulate in (1, 3, 3, 3, 2):  # the warm-up lengthens windows, also one that has begun
        full.append(accumulator.window_is_full(accumulate))
    assert full == [True, False, False, True, False]
    assert accumulator.pending == 1


def test_a_window_that_shrinks_below_what_it_holds_is_full() -> None:
    accumulator = GradientAccumulator()
    assert not accumulator.window_is_full(4)
    assert accumulator.window_is_full(1)


def test_waiting_gradients_survive_a_save() -> None:
    network = nn.Linear(2, 1)
    network(torch.tensor([[1.0, 2.0]])).sum().backward()
    accumulator = GradientAccumulator()
    accumulator.window_is_full(4)
    saved = copy.deepcopy(accumulator.state_dict(network, batch_size=8))  # as a file would hold it

    other, restored = nn.Linear(2, 1), GradientAccumulator()
    restored.saved = saved
    restored.restore_gradients(other, batch_size=8)
    assert restored.pending == 1
    assert other.weight.grad is not None and other.weight.grad.tolist() == [[1.0, 2.0]]
    other.weight.grad.zero_()
    restored.restore_gradients(other, batch_size=8)  # once only: later fits start clean
    assert other.weight.grad.tolist() == [[0.0, 0.0]]


def test_nothing_waits_after_a_step() -> None:
    network = nn.Linear(2, 1)
    network(torch.ones(1, 2)).sum().backward()
    accumulator = GradientAccumulator()
    accumulator.window_is_full(1)
    assert accumulator.state_dict(network, 8) == {"images": 0, "gradients": {}}


def test_an_older_checkpoint_counts_batches_instead_of_images() -> None:
    network, restored = nn.Linear(2, 1), GradientAccumulator()
    restored.saved = {"pending": 3, "gradients": {"weight": torch.ones(1, 2)}}
    restored.restore_gradients(network, batch_size=8)
    assert restored.pending == 3
