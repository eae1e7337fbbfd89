"""What ranks with unequal shares do: validation counts each image once, and nobody waits for ever."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.support.processes import run
from tests.support.quiet import QUIET
from yolo_lightning.data.batch import Batch
from yolo_lightning.data.synthetic import make_dataset

ROOT = Path(__file__).parents[2]
IMAGES = 87
LOSSES = {"val/loss", "val/box_loss", "val/obj_loss", "val/cls_loss"}


class Witness(Callback):
    """Writes down, on each rank, which images it validates, and the metrics as they are logged.

    Args:
        folder: for ``<rank>.json``.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.batches: list[list[int]] = []

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        self.batches.append(batch.image_ids.tolist())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        text = json.dumps({"batches": self.batches, "metrics": metrics})
        (self.folder / f"{trainer.global_rank}.json").write_text(text)


def command_line(subcommand: str, ranks: int, *options: str) -> None:
    """Run the command on so many processes of this machine; a hang fails."""
    arguments = [
        subcommand, "--data.image_size=64", "--data.num_workers=0", "--data.cache=none",
        "--model.compile=false", "--model.channels_last=true", "--trainer.precision=32-true",
        "--trainer.accelerator=cpu", f"--trainer.devices={ranks}", *options,
    ]  # fmt: skip
    statuses, written = run(arguments, ranks)
    assert statuses == [0] * ranks, written[-4000:]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set of 87 validation images, and a checkpoint that finds something in them."""
    folder = tmp_path_factory.mktemp("validation")
    data = make_dataset(folder / "shapes", train_images=32, val_images=IMAGES, image_size=64)
    command_line(
        "fit", 1, f"--data.root={data}", f"--config={ROOT / 'configs' / 'augment' / 'none.yaml'}",
        "--data.batch_size=16", "--trainer.max_epochs=40", "--trainer.check_val_every_n_epoch=40",
        "--model.optimizer.name=adamw", "--model.optimizer.learning_rate=0.003",
        "--model.optimizer.warmup_epochs=0", "--model.optimizer.nominal_batch_size=16",
        f"--runs_dir={folder / 'runs'}",
    )  # fmt: skip
    return data, folder / "runs" / "fit" / "version_0" / "checkpoints" / "last.ckpt"


def validate(folder: Path, data: Path, checkpoint: Path, ranks: int) -> list[dict[str, Any]]:
    """What each rank saw, and the metrics that it ended with."""
    folder.mkdir()
    witness = {"class_path": f"{__name__}.Witness", "init_args": {"folder": str(folder)}}
    command_line(
        "validate", ranks, f"--data.root={data}", f"--ckpt_path={checkpoint}", "--data.batch_size=1",
        f"--trainer.callbacks={json.dumps([witness])}", f"--runs_dir={folder / 'runs'}",
    )  # fmt: skip
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


@pytest.fixture(scope="module")
def validated(
    tmp_path_factory: pytest.TempPathFactory, trained: tuple[Path, Path]
) -> dict[int, list[dict[str, Any]]]:
    """What each rank saw, and its metrics, for each number of ranks."""
    folder = tmp_path_factory.mktemp("validated")
    return {ranks: validate(folder / str(ranks), *trained, ranks) for ranks in (1, 2, 3)}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_validation_is_the_same_on_any_number_of_ranks(
    trained: tuple[Path, Path], validated: dict[int, list[dict[str, Any]]]
) -> None:
    """On two ranks one has 44 batches and the other 43."""
    assert [len(rank["batches"]) for rank in validated[2]] == [44, 43]
    annotations = json.loads((trained[0] / "annotations" / "instances_val.json").read_text())
    every_image = sorted(image["id"] for image in annotations["images"])
    assert len(every_image) == IMAGES
    [alone] = [rank["metrics"] for rank in validated[1]]
    assert 1e-4 < alone["val/map"] < 0.99
    for ranks, seen in validated.items():
        images = sorted(image for rank in seen for batch in rank["batches"] for image in batch)
        assert images == every_image, ranks
        for rank in seen:
            assert rank["metrics"].keys() == alone.keys()
            for name in alone.keys() - LOSSES:
                assert abs(rank["metrics"][name] - alone[name]) <= 1e-9, (ranks, name)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_validation_loss_is_the_same_on_any_number_of_ranks(
    validated: dict[int, list[dict[str, Any]]],
) -> None:
    [alone] = [rank["metrics"] for rank in validated[1]]
    for seen in validated.values():
        for name in LOSSES:
            assert seen[0]["metrics"][name] == pytest.approx(alone[name], rel=1e-5)


@pytest.mark.parametrize("head", ["yolov5n", "yolov5nu"])
def test_a_rank_without_labels_holds_nobody_up(tmp_path: Path, head: str) -> None:
    """Half of the images have no label: with one image a rank, it is now one, now the other, now both."""
    data = make_dataset(tmp_path / "shapes", train_images=16, val_images=3, image_size=64)
    path = data / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    bare = {image["id"] for image in document["images"][::2]}
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] not in bare]
    path.write_text(json.dumps(document))
    command_line(
        "fit", 2, f"--data.root={data}", f"--config={ROOT / 'configs' / 'augment' / 'none.yaml'}",
        "--data.batch_size=1", "--trainer.max_epochs=1", f"--model.architecture={head}",
        "--model.optimizer.nominal_batch_size=2", f"--runs_dir={tmp_path / 'runs'}",
    )  # fmt: skip
    summary = json.loads((tmp_path / "runs" / "fit" / "version_0" / "summary.json").read_text())
    assert summary["epochs"] == 1


@pytest.mark.parametrize(
    "options",
    [
        ("--trainer.check_val_every_n_epoch=5", "--trainer.enable_checkpointing=false"),
        ("--trainer.max_steps=3", "--patience=0"),
    ],
)
def test_an_epoch_that_nothing_but_its_record_ends_holds_nobody_up(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """The means of the losses over the ranks are taken by who reads them first; here the record is alone."""
    data = make_dataset(tmp_path / "shapes", train_images=16, val_images=3, image_size=64)
    command_line(
        "fit", 2, f"--data.root={data}", "--data.batch_size=2", "--trainer.max_epochs=2",
        "--model.optimizer.nominal_batch_size=4", "--model.optimizer.warmup_epochs=0",
        *QUIET, f"--runs_dir={tmp_path / 'runs'}", *options,
    )  # fmt: skip
    summary = json.loads((tmp_path / "runs" / "fit" / "version_0" / "summary.json").read_text())
    assert summary["last"]["step"] == (3 if "--trainer.max_steps=3" in options else 8)
