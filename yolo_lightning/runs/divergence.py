"""Divergence of a run: noticed, explained, and undone.

1. About once a second the running losses are read; before a validation and a save the weights are, too. The
   means stay NaN after one batch, so nothing is missed, and no step waits for the device.
2. Training goes back to the newest checkpoint (``GoBack``, which ``cli/launcher.py`` catches) and trains
   on carefully: losses, gradients and weights of each batch are looked at, until one is not sound.
3. That batch is explained and saved. Training goes back once more, leaves the batch out, and goes on.

So the way back is the way of every resumed run, which is exact: what follows is the run that was told to
leave out the batch from its start.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from ..data.batch import Batch
from ..data.loading.ordered import data_that_tells
from ..distributed.agreement import Agreement
from ..distributed.failure import FailedElsewhere
from ..errors import InputError
from ..system.files import write_whole
from ..system.lightning_internals import dump_checkpoint
from ..training.divergence import diagnose, is_finite, losses_are_sound, magnitude
from ..training.module import YOLOv5
from ..training.step import Prepared, is_followed_by_validation, training_losses
from .checkpoint_files import write
from .checkpoint_io import RunCheckpointIO
from .snapshot import Snapshot, Snapshots, tensors_in

FOLDER = "divergence"
_LOOK_S = 1.0
"""Time between two looks at the losses, each of which waits for the device."""
_MOST_EVENTS = 3
_MOST_LINES = 8  # of a report, on the screen
_GROWTH = 1000.0
"""Growth of the largest weight since the start of training, or since 1, above which weights have exploded."""
_REMEDIES = {  # in the order of their distance to the cause
    "images": "pixels are not finite after the augmentation; remove the images of the report, or set "
    "--model.compile false",
    "labels": "labels are not finite; correct those of the images of the report",
    "precision": "fp16 is too narrow for this network; set --trainer.precision bf16-mixed or 32-true",
    "step": "the learning rate is too high; lower --model.optimizer.learning_rate (now {rate:g})",
    "unknown": "it does not repeat, so the memory of the device may be faulty; train on another one",
}
Place = tuple[int, int]
"""Epoch and batch in it, from 0."""


class GoBack(InputError):
    """Training is to be started again from ``checkpoint``, on every rank, with the same Trainer."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(f"training has diverged; resume with --ckpt_path {checkpoint}")
        self.checkpoint = checkpoint


class Divergence(Callback):
    """Ends training by ``GoBack`` when it diverges, and the third time by an error that names the cause.

    List it after the average of the weights and before ``MidEpochResumption``.

    Args:
        run: run directory; what is found goes into its folder ``divergence``.
        last: ``last.ckpt``; None if checkpoints are turned off: then the first divergence is an error.

    Attributes:
        left_out: batches that are not trained.
    """

    def __init__(self, run: Path, last: Path | None) -> None:
        self.run, self.last = run, last
        self.left_out: set[Place] = set()
        self._events = 0
        self._noticed: Place | None = None
        """Batch at which a divergence was noticed: until then each batch is inspected."""
        self._agreement: Agreement
        self._start: Snapshot | None = None  # of a run that has no checkpoint yet
        self._most = math.inf  # largest value of a weight

    def state_dict(self) -> dict[str, Any]:
        return {"left_out": [list(place) for place in sorted(self.left_out)]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.left_out |= {(epoch, batch) for epoch, batch in state_dict["left_out"]}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._agreement = Agreement(flags=1)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, YOLOv5)
        pl_module.left_out = self.left_out
        pl_module.inspect = partial(self._inspect, trainer, pl_module) if self._noticed else None
        largest = magnitude(pl_module.network.parameters())
        if not (math.isfinite(largest) and is_finite(pl_module.network.buffers())):
            raise InputError("the initial weights are not finite; give other --model.weights or --ckpt_path")
        self._most = _GROWTH * max(1.0, largest)
        self._looked_s = monotonic()
        self._steps = trainer.global_step
        self._window: dict[Place, list[int]] = {}  # batches since the last step: positions of their images
        self._stepped: dict[Place, list[int]] = {}  # those of the last step
        self._before: tuple[int, dict[str, Tensor]] | None = None  # steps and network of the batch before
        self._batches: list[Prepared] = []  # inspected last
        self._came_from, self._written = trainer.ckpt_path, _version(self.last)
        self._start = None
        if not self._came_from and self.last:
            contents = dump_checkpoint(trainer)  # by all ranks together
            self._start = Snapshots().take(contents) if trainer.is_global_zero else None

    # -- noticing ----------------------------------------------------------------------------------

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, YOLOv5)
        if self._noticed:
            self._end_inspected_batch(trainer, pl_module, (trainer.current_epoch, batch_idx))
        elif is_followed_by_validation(trainer):
            sound = losses_are_sound([pl_module.running_losses]) and self._weights_are_sound(pl_module)
            self._notice(trainer, self._agreement.settle([not sound])[0])
        else:
            is_due = monotonic() - self._looked_s >= _LOOK_S
            self._looked_s = monotonic() if is_due else self._looked_s
            sound = not is_due or losses_are_sound([pl_module.running_losses])
            self._notice(trainer, self._agreement.exchange([not sound])[0])

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to save weights, averages or momentum that are not finite, on all ranks."""
        assert isinstance(pl_module, YOLOv5)
        if _version(self.last) != self._written:
            self._start = None
        saved = [checkpoint.get(key) for key in ("state_dict", "optimizer_states")]
        sound = is_finite(tensors_in(saved)) and self._weights_are_sound(pl_module)  # the live weights
        self._notice(trainer, self._agreement.settle([not sound])[0])

    def _weights_are_sound(self, module: YOLOv5) -> bool:
        return magnitude(module.network.parameters()) <= self._most and is_finite(module.network.buffers())

    def _notice(self, trainer: Trainer, diverged: bool) -> None:
        if diverged:
            self._noticed = trainer.current_epoch, trainer.fit_loop.batch_idx
            self._go_back(trainer, f"training has diverged by {_name(self._noticed)}; looking for the cause")

    def _go_back(self, trainer: Trainer, why: str) -> NoReturn:
        """Go back to the newest checkpoint; the start of the run is written where there is none yet."""
        io = trainer.strategy.checkpoint_io
        if isinstance(io, RunCheckpointIO):
            io.wait()
            io.saved = None
        if self._start and self.last and _version(self.last) == self._written:
            write(self._start.contents, self.last, keep_previous=True)
        changed = _version(self.last) != self._written
        found = trainer.strategy.broadcast(str(self.last) if changed else self._came_from)
        if not found:
            raise _error(trainer)(
                "training has diverged, and without checkpoints there is no state to go back to; set "
                "--trainer.enable_checkpointing true, or lower --model.optimizer.learning_rate"
            )
        _say(trainer, f"{why}, again from {found}")
        raise GoBack(Path(found))

    # -- looking for the batch ---------------------------------------------------------------------

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        place = trainer.current_epoch, batch_idx
        if self._noticed and place not in self.left_out:
            self._window[place] = batch.index.tolist()

    def _inspect(
        self, trainer: Trainer, module: YOLOv5, batches: list[Prepared], parts: list[dict[str, Tensor]]
    ) -> None:
        """Inspect the losses and gradients of batches before the optimizer steps."""
        self._batches = batches
        gradients = [p.grad for p in module.network.parameters() if p.grad is not None]
        # With a scaler, gradients that are not finite are normal: it skips the step.
        sound = losses_are_sound(parts) and (_scaler(trainer) is not None or is_finite(gradients))
        state = {name: value.clone() for name, value in module.network.state_dict().items()}
        if not self._agreement.settle([not sound])[0]:
            self._before = trainer.global_step, state
            return
        by_step = False
        if self._before and self._before[0] < trainer.global_step:
            module.network.load_state_dict(self._before[1])
            with torch.no_grad():
                again = [training_losses(module.network, module.criterion, *each)[1] for each in batches]
            by_step = not self._agreement.settle([not losses_are_sound(again)])[0]
            module.network.load_state_dict(state)
        self._explain(trainer, module, list(self._window)[-len(batches) :], by_step)

    def _end_inspected_batch(self, trainer: Trainer, module: YOLOv5, place: Place) -> None:
        """Inspect the weights after an optimizer step, and stop where the divergence was noticed."""
        if trainer.global_step != self._steps:
            self._steps, self._stepped, self._window = trainer.global_step, self._window, {}
            if self._agreement.settle([not self._weights_are_sound(module)])[0]:
                self._explain(trainer, module, [], by_step=True)
        if self._noticed and place >= self._noticed:
            self._noticed = module.inspect = None
            self._count(trainer, "unknown")
            _say(trainer, f"{_name(place)}: passed without a divergence this time; training goes on")

    def _explain(self, trainer: Trainer, module: YOLOv5, blamed: list[Place], by_step: bool) -> NoReturn:
        """Say and save what is known, and go back to train without the batches to blame."""
        with trainer.precision_plugin.forward_context():
            diagnosis = diagnose(module.network, module.criterion, self._batches)
        part, text = (
            (diagnosis.part, diagnosis.text) if diagnosis else ("unknown", "it is finite when run again")
        )
        if part in ("layer", "loss", "gradient", "weights"):
            part = "precision" if str(trainer.precision).startswith("16") else "step"
        if by_step:
            blamed, part = list(self._stepped), "step"
            rate = max(group["lr"] for group in trainer.optimizers[0].param_groups)
            largest = magnitude(module.network.parameters())
            text = f"the optimizer's step (learning rate {rate:g}) left weights up to {largest:.3g}; {text}"
        positions = [i for place in blamed for i in (self._stepped | self._window)[place]]
        if diagnosis and diagnosis.rows and not by_step:
            positions = [positions[row] for row in diagnosis.rows]
        data, scaler = data_that_tells(trainer), _scaler(trainer)
        lines = [f"divergence in {_names(blamed)}, step {trainer.global_step}: {text}"]
        if diagnosis and diagnosis.layer:
            lines.append(f"first layer that is not finite: {diagnosis.layer}")
        if scaler is not None:
            lines.append(f"gradient scaler: {scaler.state_dict()}")
        if data:
            index = data.indices["train"]
            lines += [f"image: {index.path(i % len(index))}" for i in positions]
        found: list[Any] = [(list(_REMEDIES).index(part), lines)] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(found, found[0])
        rank = min(range(len(found)), key=lambda one: found[one][0])
        part, lines = list(_REMEDIES)[found[rank][0]], found[rank][1]
        path = self.run / FOLDER / f"epoch_{blamed[0][0] + 1}_batch_{blamed[0][1] + 1}.pt"
        if trainer.global_rank == rank:
            self._save(trainer, module, path, lines)
        more = [f"... all are listed in {path.with_suffix('.txt')}"] if len(lines) > _MOST_LINES else []
        again = f"see it again: yolo-lightning replay {path}"
        _say(trainer, "\n  ".join([*lines[:_MOST_LINES], *more, again]))
        self.left_out |= set(blamed)
        self._noticed = module.inspect = None
        self._count(trainer, part)
        self._go_back(trainer, f"going on without {_names(blamed)}")

    def _save(self, trainer: Trainer, module: YOLOv5, path: Path, lines: list[str]) -> None:
        contents = {
            "batches": [each._asdict() for each in self._batches],
            "state_dict": {name: value.cpu() for name, value in module.network.state_dict().items()},
            "hyper_parameters": dict(module.hparams),
            "image_size": module.criterion.image_size_px,
            "precision": str(trainer.precision),
            "report": lines,
        }
        write(contents, path)
        write_whole(path.with_suffix(".txt"), "\n".join(lines) + "\n")

    def _count(self, trainer: Trainer, part: str) -> None:
        """Count a divergence; the third one ends the run."""
        self._events += 1
        if self._events >= _MOST_EVENTS:
            options: Any = trainer.lightning_module.optimizer_config
            remedy = _REMEDIES[part].format(rate=options.learning_rate)
            folder = self.run / FOLDER
            sentence = f"training has diverged {self._events} times (reports: {folder}): {remedy}"
            raise _error(trainer)(sentence)


def _error(trainer: Trainer) -> type[InputError]:
    """The error for what all ranks find: one of them says it."""
    return InputError if trainer.is_global_zero else FailedElsewhere


def _say(trainer: Trainer, text: str) -> None:
    if bar := trainer.progress_bar_callback:
        bar.print(text)
    elif trainer.is_global_zero:
        print(text)


def _scaler(trainer: Trainer) -> torch.amp.GradScaler | None:
    scaler: torch.amp.GradScaler | None = getattr(trainer.precision_plugin, "scaler", None)
    return scaler


def _version(path: Path | None) -> tuple[int, int] | None:
    """Identity of a file, which changes when another takes its name."""
    status = path.stat() if path and path.exists() else None
    return (status.st_ino, status.st_mtime_ns) if status else None


def _names(places: list[Place]) -> str:
    return ", ".join(map(_name, places))


def _name(place: Place) -> str:
    return f"batch {place[1] + 1} of epoch {place[0] + 1}"
