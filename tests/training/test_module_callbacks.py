"""Callbacks of Lightning's own, as its users give them."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, BatchSizeFinder
from torch.utils.data import DataLoader

from tests.support.run_comparison import contents
from tests.support.small_network import write_small_yaml
from tests.support.stopped_runs import in_an_empty_folder, options
from yolo_lightning import YOLOv5
from yolo_lightning.__main__ import main
from yolo_lightning.errors import InputError

__all__ = ["in_an_empty_folder"]
RUN = Path("runs/fit/version_0")


class Trained(Callback):
    """Notes, for each epoch, what it changed: the parameters of convolutions."""

    found: ClassVar[list[set[str]]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.before = {
            n: p.detach().clone() for n, p in pl_module.network.named_parameters() if ".conv." in n
        }

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        now = dict(pl_module.network.named_parameters())
        self.found.append({n for n, value in self.before.items() if not torch.equal(value, now[n])})


def test_the_backbone_is_that_of_the_model_yaml() -> None:
    for architecture, layers in (("yolov5n", 10), ("yolov5n6", 12)):
        module = YOLOv5(architecture, compile=False)
        assert len(module.backbone) == layers
        assert module.backbone[0] is module.network.model[0]


def test_backbone_finetuning_unfreezes_the_backbone_in_a_run_and_after_a_resume(
    tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trained, "found", [])
    # fmt: off
    callbacks = (
        "--trainer.callbacks=BackboneFinetuning", "--trainer.callbacks.unfreeze_backbone_at_epoch=1",
        "--trainer.callbacks+=tests.training.test_module_callbacks.Trained",
    )
    # fmt: on
    architecture = f"--model.architecture={write_small_yaml(tmp_path, True)}"
    main(["fit", *options(shapes, architecture, *callbacks)])
    backbone = {f"model.{layer}." for layer in range(7)}
    trained = [{name for name in found if name.startswith(tuple(backbone))} for found in Trained.found]
    assert [bool(names) for names in trained] == [False, True, True]
    groups = contents(RUN)["optimizer_states"][0]["param_groups"]
    assert [group["lr"] for group in groups[:3]] == pytest.approx([0.01 * (1 - 1 / 3) * 0.99 + 0.0001] * 3)
    # In epoch 1 a tenth of the rate of the batch before, and then twice as much.
    assert groups[3]["lr"] == pytest.approx(2 * 0.1 * 0.01)
    last = f"--ckpt_path={RUN / 'checkpoints' / 'last.ckpt'}"
    main(["fit", last, "--trainer.max_epochs=4", *callbacks])
    assert len(Trained.found) == 4 and Trained.found[3] >= trained[2]
    assert BackboneFinetuning.__name__ in contents(RUN)["callbacks"]


def test_a_model_checkpoint_of_ones_own_saves_beside_ours(shapes: Path, tmp_path: Path) -> None:
    # fmt: off
    main(["fit", *options(
        shapes, f"--model.architecture={write_small_yaml(tmp_path, True)}",
        "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.dirpath=mine",
        "--trainer.callbacks.save_top_k=2", "--trainer.callbacks.monitor=train/box_loss",
        "--trainer.callbacks.filename={epoch}",
    )])
    # fmt: on
    assert {path.name for path in (RUN / "checkpoints").iterdir()} >= {"best.ckpt", "last.ckpt"}
    assert len(list(Path("mine").glob("epoch=*.ckpt"))) == 2
    own = torch.load(next(Path("mine").glob("*.ckpt")), weights_only=True)
    assert own["state_dict"].keys() == contents(RUN)["state_dict"].keys()


@pytest.mark.parametrize(
    ("callback", "remedy"),
    [
        ("StochasticWeightAveraging --trainer.callbacks.swa_lrs=0.01", "--ema.decay"),
        ("EMAWeightAveraging", "--ema.decay"),
        ('GradientAccumulationScheduler --trainer.callbacks.scheduling={"0":2}', "nominal_batch_size"),
        ("BatchSizeFinder", "--data.batch_size auto"),
        ("LearningRateFinder", "learning_rate"),
        ("ModelPruning --trainer.callbacks.pruning_fn=l1_unstructured", "no pruned network"),
    ],
)
def test_callbacks_that_would_have_no_effect_are_refused(
    tmp_path: Path, shapes: Path, callback: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    architecture = f"--model.architecture={write_small_yaml(tmp_path, True)}"
    with pytest.raises(SystemExit):
        main(["fit", *options(shapes, architecture, *f"--trainer.callbacks={callback}".split())])
    message = capsys.readouterr().err
    assert callback.split()[0] in message and remedy in message


def test_they_are_refused_without_the_command_line() -> None:
    trainer = Trainer(logger=False, enable_checkpointing=False, callbacks=[BatchSizeFinder()])
    with pytest.raises(InputError, match=r"BatchSizeFinder.*--data\.batch_size auto"):
        trainer.fit(YOLOv5(), DataLoader([0]))
