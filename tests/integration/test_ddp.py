"""Several processes on one machine: the gradient of the joined batch, and compiled training.

The gradients are those that the optimizer meets in a real ``fit``. Batch norms use fixed statistics there,
because each rank's would be of its own images; with that nothing differs but what DDP and the loss do.

What is equal to what follows from the classic loss, which divides by the matches of a batch on all ranks:

* W ranks with batch B / W have the gradient of one process with batch B, whatever the labels.
* The same holds for each batch of a window that is accumulated.
* A window of k batches of B / k has the gradient of one batch of B where the batches have equally many
  matches. Elsewhere it differs, as it does in ultralytics/yolov5: the number for the whole window is known
  only when the first gradients have been computed.
* With ``model.optimizer.joint_loss`` the batches wait for each other, and it never differs.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader

from tests.support.processes import free_port, side_by_side
from yolo_lightning import DetectionDataModule, YOLOv5
from yolo_lightning.data.batch import Batch, pack_labels
from yolo_lightning.distributed.ddp import DDPConfig, build_strategy
from yolo_lightning.training.optimizer import OptimizerConfig

LAYOUTS = {
    "1 x 8": (1, 8, False),
    "2 x 4": (2, 4, False),
    "2 x 2 twice": (2, 2, False),
    "1 x 4 twice": (1, 4, False),
    "2 x 2 jointly": (2, 2, True),
    "1 x 4 jointly": (1, 4, True),
}
"""Ranks, images a rank, and whether the batches of a step have their loss together; 8 images a step."""
HEADS = ("yolov5n", "yolov5nu")
LIMITS = {"64-true": 1e-9, "32-true": 1e-5}
"""Precision, and how far gradients may differ."""
LABELS = ("ragged", "regrouped", "repeated")
CASES = [
    (head, precision, labels)
    for head in HEADS
    for precision in LIMITS
    for labels in LABELS
    if (precision, labels) != ("32-true", "regrouped")  # float64 shows what is equal
]
LABELLED = (0, 1, 4, 5)
"""The images with labels; rank 1 has the others, in each layout with two ranks."""

Gradients = dict[str, Tensor]


def joined_batch(labels: str) -> tuple[Tensor, Tensor, Tensor]:
    """8 images of 64 px; two ranks take (0, 1, 4, 5) and (2, 3, 6, 7), and two batches the halves.

    Args:
        labels: ``ragged``: 4, 1, 2 and 0 labels on the images that have some. ``regrouped``: 4 and 1, then
            1 and 4, the same boxes in both halves. ``repeated``: the second half is the first once more.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (8, 3, 64, 64), generator=generator, dtype=torch.uint8)
    one = torch.tensor([[2, 8, 16, 40, 48]]).float()
    four = torch.tensor(
        [[0, 4, 4, 30, 40], [2, 20, 10, 60, 60], [1, 33, 33, 47, 52], [1, 2, 40, 22, 62]]
    ).float()
    given = {
        "ragged": (four, one, four[1:3], one[:0]),
        "regrouped": (four, one, one, four),
        "repeated": (four, one, four, one),
    }[labels]
    targets, count = torch.zeros(8, 16, 5), torch.zeros(8, dtype=torch.long)
    for image, rows in zip(LABELLED, given, strict=True):
        targets[image, : len(rows)], count[image] = rows, len(rows)
    if labels == "repeated":
        images[4:] = images[:4]
    return images, targets, count


class Fixed(LightningDataModule):
    """The joined batch, divided among ranks and batches."""

    image_size, class_names, category_ids, stride = 64, ("a", "b", "c"), (1, 2, 3), 32
    copies_beside = False

    def __init__(self, labels: str, rank: int, ranks: int, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        mine = [i for i in range(8) if ranks == 1 or (i in LABELLED) == (rank == 0)]
        images, targets, count = (part[mine] for part in joined_batch(labels))
        unused = torch.zeros(batch_size, 0)
        index = torch.arange(batch_size)
        self.batches = [
            Batch(i, t, c, index, index, unused, unused, unused, index)
            for i, t, c in zip(*(p.split(batch_size) for p in (images, targets, count)), strict=True)
        ]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]


class Unaugmented(torch.nn.Module):
    """In the place of the augmentation, which knows float32 alone."""

    def forward(self, batch: Batch, *_: Any, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
        images = batch.images.to(batch.targets.dtype) / 255
        return images, *pack_labels(batch.targets, batch.count, 16 * len(images))


class Watch(Callback):
    """Fixes the batch norms, and keeps the gradient of each step."""

    def __init__(self) -> None:
        self.steps: list[Gradients] = []

    def on_train_batch_start(self, trainer: Trainer, module: Any, *_: Any) -> None:
        module.network.eval()

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, *_: Any) -> None:
        named = module.network.named_parameters()
        self.steps.append({name: p.grad.detach().clone() for name, p in named if p.grad is not None})


def fit(
    module: YOLOv5, data: LightningDataModule, ranks: int, callback: Callback, precision: Any = "32-true"
) -> None:
    """Two epochs on a data set, one on the joined batch."""
    asked = SimpleNamespace(
        strategy="auto", accelerator="cpu", devices=ranks, num_nodes=1, sync_batchnorm=False
    )
    strategy = build_strategy(asked, DDPConfig())
    options: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = Trainer(
        max_epochs=1 if isinstance(data, Fixed) else 2, accelerator="cpu", devices=ranks, strategy=strategy,
        callbacks=[callback], precision=precision, use_distributed_sampler=False, num_sanity_val_steps=0,
        **options,
    )  # fmt: skip
    trainer.fit(module, data)


def join(rank: int, port: int) -> None:
    """Make this process one of two ranks."""
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)


@contextmanager
def wide_losses() -> Iterator[None]:
    """The losses ask for float32 on purpose; in float64 their definition shows without the rounding."""
    with (
        mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
        mock.patch.object(torch, "float32", torch.float64),
    ):
        yield


def gradient_of_a_step(head: str, precision: str, labels: str, layout: str, rank: int = 0) -> Gradients:
    """What the optimizer meets in the first step of a fit."""
    ranks, batch_size, joint = LAYOUTS[layout]
    seed_everything(0, verbose=False)
    module = YOLOv5(
        architecture=head,
        compile=False,
        optimizer=OptimizerConfig(
            warmup_epochs=0, nominal_batch_size=8, gradient_clip_norm=0, joint_loss=joint
        ),
    )
    module.augmentation = Unaugmented()  # type: ignore[assignment]
    watch = Watch()
    with wide_losses() if precision == "64-true" else nullcontext():
        fit(module, Fixed(labels, rank, ranks, batch_size), ranks, watch, precision)
    [gradient] = watch.steps
    return gradient


def all_gradients(ranks: int, rank: int = 0) -> dict[str, Gradients]:
    return {
        f"{head} {precision} {labels} {layout}": gradient_of_a_step(head, precision, labels, layout, rank)
        for head, precision, labels in CASES
        for layout, (of_ranks, *_) in LAYOUTS.items()
        if of_ranks == ranks
    }


def _work(rank: int, port: int, folder: str) -> None:
    join(rank, port)
    found = all_gradients(2, rank)
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def gradients(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Gradients]:
    """Of every case: those of two ranks as rank zero has them, and those of one process."""
    folder = tmp_path_factory.mktemp("gradients")
    side_by_side(_work, 2, free_port(), str(folder))
    first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for case in first:  # DDP leaves the same on both
        assert all(torch.equal(first[case][name], second[case][name]) for name in first[case])
    # With as many threads as each rank: by how a sum is divided among threads a match of an untrained network
    # may go to another point, and gradients then differ by percents.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return first | all_gradients(1)
    finally:
        torch.set_num_threads(threads)


def largest_difference(a: Gradients, b: Gradients) -> float:
    """The largest over the parameters: norm of the difference relative to the norm of the gradient."""
    assert a.keys() == b.keys() and len(a) > 100
    return max(float((a[name] - b[name]).norm() / b[name].norm()) for name in b)


EACH = pytest.mark.parametrize(("head", "precision"), [(h, p) for h in HEADS for p in LIMITS])


@pytest.mark.parametrize(("head", "precision", "labels"), CASES)
def test_two_ranks_have_the_gradient_of_one_process(
    gradients: dict[str, Gradients], head: str, precision: str, labels: str
) -> None:
    case, limit = f"{head} {precision} {labels}", LIMITS[precision]
    assert largest_difference(gradients[f"{case} 2 x 4"], gradients[f"{case} 1 x 8"]) <= limit
    assert largest_difference(gradients[f"{case} 2 x 2 twice"], gradients[f"{case} 1 x 4 twice"]) <= limit


@pytest.mark.parametrize(("head", "precision", "labels"), CASES)
def test_accumulating_with_joint_losses_has_the_gradient_of_the_joined_batch(
    gradients: dict[str, Gradients], head: str, precision: str, labels: str
) -> None:
    case, limit = f"{head} {precision} {labels}", LIMITS[precision]
    for layout in ("2 x 2 jointly", "1 x 4 jointly"):
        assert largest_difference(gradients[f"{case} {layout}"], gradients[f"{case} 1 x 8"]) <= limit


@EACH
def test_accumulating_equally_many_matches_has_the_gradient_of_the_joined_batch(
    gradients: dict[str, Gradients], head: str, precision: str
) -> None:
    """The u head's matches depend on the images too, so there they agree for equal images alone."""
    for labels in ("repeated",) if head == "yolov5nu" else ("regrouped", "repeated"):
        if (head, precision, labels) not in CASES:
            continue
        case = f"{head} {precision} {labels}"
        for layout in ("2 x 2 twice", "1 x 4 twice"):
            difference = largest_difference(gradients[f"{case} {layout}"], gradients[f"{case} 1 x 8"])
            assert difference <= LIMITS[precision]


@EACH
def test_accumulating_unequal_batches_weighs_each_batch_by_its_own_matches(
    gradients: dict[str, Gradients], head: str, precision: str
) -> None:
    """What classic YOLOv5 does, on one process too; docs/scaling.md says so, and this notices a change."""
    case = f"{head} {precision} ragged"
    assert largest_difference(gradients[f"{case} 1 x 4 twice"], gradients[f"{case} 1 x 8"]) > 0.01


class FirstSteps(Callback):
    """Keeps the gradient of the first batch; from the third batch on a recompilation is an error."""

    def __init__(self) -> None:
        self.gradient: Gradients = {}
        self.batches = 0

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        self.batches += 1
        torch._dynamo.config.error_on_recompile = self.batches >= 2

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, *_: Any) -> None:
        if not self.gradient:  # the warm-up begins with a step a batch
            named = module.network.named_parameters()
            self.gradient = {name: p.grad.clone() for name, p in named if p.grad is not None}


def _train(rank: int, port: int, data: str, folder: str) -> None:
    """The same fit eager and compiled."""
    join(rank, port)
    # Traced as in earnest, without the minutes of code generation.
    torch.compile = partial(torch.compile, backend="aot_eager")  # type: ignore[assignment]
    for compile in (False, "default"):
        seed_everything(0, verbose=False)
        module = YOLOv5(compile=compile)  # type: ignore[arg-type]
        steps = FirstSteps()
        before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        fit(module, DetectionDataModule(root=data, image_size=64, batch_size=2, num_workers=0), 2, steps)
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
        weights = {name: p.detach() for name, p in module.network.named_parameters()}
        found = {"gradient": steps.gradient, "weights": weights, "graphs": graphs, "batches": steps.batches}
        torch.save(found, Path(folder) / f"{compile}{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_compiled_training_on_two_ranks_is_the_same_and_compiles_once(tmp_path: Path, shapes: Path) -> None:
    side_by_side(_train, 2, free_port(), str(shapes), str(tmp_path))
    eager, compiled, other = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("False0", "default0", "default1")
    )
    assert eager["graphs"] == 0 and compiled["batches"] == 6
    assert compiled["graphs"] >= 2  # the augmentation; network and loss
    assert largest_difference(compiled["gradient"], eager["gradient"]) <= 1e-2
    assert all(torch.equal(compiled["weights"][name], other["weights"][name]) for name in other["weights"])
