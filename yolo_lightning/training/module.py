"""The LightningModule: builds and trains a YOLOv5."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from ..data.augment import Augmentation, AugmentationConfig
from ..data.augment.multi_scale import draw_size, training_sizes
from ..data.batch import Batch, image_size
from ..data.image_size import as_option, as_size, checked_size, mean_side
from ..errors import InputError
from ..evaluation.config import EvaluationConfig
from ..evaluation.detect import MeanLosses
from ..evaluation.mean_average_precision import CocoMeanAveragePrecision
from ..model.architecture import is_name, read_architecture, self_contained, short_name
from ..model.losses import AnchorFreeLossConfig, AnchorLossConfig, LossConfigs
from ..model.network import build_network
from ..model.weights import LoadedWeights, load_weights, transfer_weights
from ..system.lightning_internals import attached_trainer
from ..system.streams import run_beside
from .auto_anchor import look_for_anchors, read_anchors
from .compilation import CompileOption, decide_compilation
from .cuda_graphs import Losses, keep_gradients, prove_gradients
from .freeze import FreezeOption, describe_frozen, freeze_layers
from .hyper_parameters import architecture_of, checked_hyper_parameters
from .micro_batches import join, split, with_more_parts
from .module_evaluation import EvaluationSteps
from .optimizer import OptimizerConfig, apply_settings, build_optimizer, describe_scaling, step_settings
from .other_callbacks import refuse_conflicting
from .step import (
    GradientAccumulator,
    Prepared,
    add_gradients,
    add_to_means,
    is_followed_by_validation,
    rank_mean,
    training_losses,
)


class YOLOv5(EvaluationSteps):
    """YOLOv5 with its classic training; :meth:`configure_model` builds ``network``.

    Args:
        architecture: yolov5n|s|m|l|x (classic), yolov5n6|s6|m6|l6|x6 (classic P6), yolov5nu|su|mu|lu|xu
            (anchor-free), or the path of a YOLOv5-style YAML.
        num_classes: number of classes; by default the data set's, else the weights', else 80.
        class_names: name of each class; by default the data set's.
        category_ids: COCO id of each class, for the results of predict; by default the data set's.
        weights: initial weights: an official or fine-tuned YOLOv5 .pt, a plain state dict, a safetensors
            file or a checkpoint of yolo-lightning. Nothing in the file is executed. The command line also
            takes a name such as yolov5s, whose official file it fetches once.
        freeze: layers that are not trained, and whose batch norms are in evaluation: the first N layers, or a
            list of numbers of layers and of beginnings of names of parameters, such as "[0, 1, model.24.m]".
        auto_anchor: look for anchors that fit the training labels, if the best possible recall of the model's
            is 0.98 or less; auto does so without weights, and with a model YAML.
        anchors: widths and heights in px, one list a level in the order of the head (from the finest on,
            unless a YAML says otherwise), instead of those of weights or model; the config.yaml of a run has
            those that auto-anchor found.
        compile: auto (network, loss and augmentation on a GPU, nothing on a CPU), augmentation, false, true,
            or a mode of torch.compile.
        channels_last: keep activations channels last; auto does.
        optimizer: optimizer, schedule and batches of a step.
        loss: gains and thresholds of the classic loss.
        anchor_free_loss: gains of the loss of the u models.
        augmentation: random changes of training images, on the device.
        evaluation: detections that validation and test evaluate.
        score_threshold: lowest score of a detection that predict reports, 0..1; auto: that of the best F1 of
            each class in the last validation of the checkpoint.
        iou_threshold: IoU above which predict keeps only the best of two boxes of one class, 0..1.
        seed: seed of the augmentation.
    """

    def __init__(
        self,
        architecture: str = "yolov5n",
        num_classes: int | None = None,
        class_names: list[str] | None = None,
        category_ids: list[int] | None = None,
        weights: str | None = None,
        freeze: FreezeOption = 0,
        auto_anchor: bool | Literal["auto"] = "auto",
        anchors: list[list[float]] | None = None,
        compile: CompileOption = "auto",
        channels_last: bool | Literal["auto"] = "auto",
        optimizer: OptimizerConfig = OptimizerConfig(),
        loss: AnchorLossConfig = AnchorLossConfig(),
        anchor_free_loss: AnchorFreeLossConfig = AnchorFreeLossConfig(),
        augmentation: AugmentationConfig = AugmentationConfig(),
        evaluation: EvaluationConfig = EvaluationConfig(),
        score_threshold: float | Literal["auto"] = 0.25,
        iou_threshold: float = 0.45,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # during the warm-up the accumulation changes with each batch
        architecture = self_contained(architecture)  # refuses a wrong one early
        self.architecture = architecture
        self.num_classes = num_classes
        self.class_names = class_names
        self.category_ids = category_ids
        self.weights = weights
        self.freeze_option = freeze
        if freeze:  # refuses a wrong one before the data is read
            with torch.device("meta"):
                freeze_layers(build_network(architecture, num_classes or 80), freeze)
        self.frozen_norms: list[nn.Module] = []
        self.auto_anchor = auto_anchor
        self.anchors = anchors
        if anchors is not None:
            read_anchors(anchors)  # refuses wrong ones early
        self.compile_option: CompileOption = compile
        self.channels_last = channels_last is not False
        self.optimizer_config = _config(OptimizerConfig, optimizer)
        self.loss_config = _config(AnchorLossConfig, loss)
        self.anchor_free_loss_config = _config(AnchorFreeLossConfig, anchor_free_loss)
        self.augmentation_config = _config(AugmentationConfig, augmentation)
        self.evaluation_config = _config(EvaluationConfig, evaluation)
        for name, value in (("score_threshold", score_threshold), ("iou_threshold", iou_threshold)):
            if value != "auto" and not 0 <= value <= 1:
                raise InputError(f"model.{name} is {value}; give a number from 0 to 1")
        self.score_threshold = score_threshold
        self.iou_threshold = iou_threshold
        self.augmentation = Augmentation(self.augmentation_config, seed=seed)
        self.accumulator = GradientAccumulator()
        self.waiting: list[Prepared] = []
        self.micro_batches = 1  # parts in which a batch is trained
        self.schedule_progress: float | None = None  # set by runs/deadline.py
        self.running_losses: dict[str, Tensor] = {}
        self.on_augmented: Callable[[Tensor, Tensor, Tensor], None] | None = None
        self.left_out: set[tuple[int, int]] = set()  # batches not to train: epoch, and number in it from 0
        # Gets batches and the parts of their losses before the optimizer steps.
        self.inspect: Callable[[list[Prepared], list[dict[str, Tensor]]], None] | None = None
        self.find = None
        # Plain types only, so that a checkpoint loads without executing anything.
        configs = ("optimizer", "loss", "anchor_free_loss", "augmentation", "evaluation")
        self.save_hyperparameters(
            {
                "architecture": architecture,
                "channels_last": self.channels_last,
                "seed": seed,
                "freeze": freeze,
            }
            | {name: asdict(getattr(self, f"{name}_config")) for name in configs}
        )

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a module as Lightning does, without importing or opening what the checkpoint names.

        Raises:
            InputError: a hyper-parameter of the checkpoint is refused.
        """
        contents = torch.load(checkpoint_path, map_location="cpu", weights_only=True)
        if hasattr(checkpoint_path, "seek"):
            checkpoint_path.seek(0)
        known = checked_hyper_parameters(contents["hyper_parameters"], checkpoint_path)
        kwargs["architecture"] = architecture_of(known, kwargs.get("architecture"), checkpoint_path)
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)

    def configure_callbacks(self) -> list[Callback]:
        """Add none; refuse those that change what this module sets itself."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            refuse_conflicting(self.trainer.callbacks)  # type: ignore[attr-defined]
        return []

    def setup(self, stage: str) -> None:
        """Take the classes from the data."""
        data = None if stage == "predict" else self._data
        if stage == "fit" and self.augmentation_config.multi_scale and getattr(data, "rect", False):
            raise InputError(
                "model.augmentation.multi_scale and data.rect together compile 20 shapes; use one of them"
            )
        if data is not None and (names := getattr(data, "class_names", None)):
            if self.num_classes not in (None, len(names)):
                raise InputError(
                    f"model.num_classes is {self.num_classes} but the data has {len(names)}; leave it out"
                )
            self.num_classes, self.class_names = len(names), list(names)
            self.category_ids = [int(i) for i in data.category_ids]

    def configure_model(self) -> None:
        """Build the network and its loss, load weights and compile; only the first call does so."""
        if "network" in self._modules:
            return
        weights = load_weights(self.weights) if self.weights else None
        if self.num_classes is None:
            self.num_classes = (weights and weights.num_classes) or 80
        if self.class_names is None and weights and weights.num_classes == self.num_classes:
            self.class_names = list(weights.class_names or ()) or None
        self.network = build_network(self.architecture, self.num_classes)
        if weights:
            self._take(weights)
        if self.freeze_option:
            self.frozen_norms = freeze_layers(self.network, self.freeze_option)
            rank_zero_info(describe_frozen(self.network, self.frozen_norms))
        if self.channels_last:
            self.network.to(memory_format=torch.channels_last)
        configs = LossConfigs(self.loss_config, self.anchor_free_loss_config)
        self.criterion = self.network.head.build_loss(configs)
        self.metric = CocoMeanAveragePrecision(self.num_classes)
        self.mean_losses = MeanLosses(("loss", *(f"{name}_loss" for name in self.criterion.parts)))
        self.hparams.update({n: getattr(self, n) for n in ("num_classes", "class_names", "category_ids")})
        if (data := self._data) is not None:
            data.stride = stride = self.network.stride
            size = checked_size(data.image_size, stride, f"{short_name(self.architecture)}: data.image_size")
            self.criterion.image_size_px = mean_side(size)  # validation has rectangles
            self.hparams["image_size"] = as_option(size)  # for whoever has the checkpoint alone
            self.hparams["batch_size"] = getattr(data, "batch_size", None)  # for a resumption with auto
        self._set_anchors()
        self._compile()

    def _take(self, weights: LoadedWeights) -> None:
        trainer = attached_trainer(self)
        is_fit = trainer is None or trainer.state.fn == TrainerFn.FITTING
        # In a training the anchors of a YAML hold, as in the classic code.
        report = transfer_weights(self.network, weights, is_fit and not is_name(self.architecture))
        if not is_fit and len(report.loaded) < report.total:
            remedy = "leave --model.architecture out, or give that of the weights"
            if report.partial:
                remedy = "the weights have other classes; leave --model.num_classes out"
            raise InputError(f"{report}; {remedy}")
        rank_zero_info(str(report))

    def _set_anchors(self) -> None:
        """Set the anchors given, and let auto-anchor look for better ones before a training.

        Those of a checkpoint replace them afterwards; :meth:`on_fit_start` refuses others.
        """
        if self.anchors is not None:
            self.criterion.set_anchors_px(read_anchors(self.anchors))
        before = self.criterion.anchors_px()  # (L, A, 2)
        label_sizes_px = getattr(self._data, "label_sizes_px", None)
        if before is None or label_sizes_px is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        is_new = not self.weights or not is_name(self.architecture)
        # A model YAML may give the number of anchors alone.
        always = self.anchors is None and getattr(self.network.head, "needs_anchors", False)
        if always or (self.anchors is None and is_new if self.auto_anchor == "auto" else self.auto_anchor):
            threshold = self.loss_config.anchor_threshold
            found, told = look_for_anchors(before, label_sizes_px(), threshold, always)
            rank_zero_info(told)
            if found is not None:
                self.criterion.set_anchors_px(found)
                self.anchors = [[round(side, 2) for side in row] for row in found.flatten(1).tolist()]

    def _compile(self) -> None:
        trainer = attached_trainer(self)
        device = trainer.strategy.root_device.type if trainer else self.device.type
        precision = str(trainer.precision) if trainer else "32-true"
        self.compilation = decide_compilation(self.compile_option, device, precision)
        rank_zero_info(f"compile: {self.compilation.reason}")
        self._training_losses: Losses = training_losses
        self._graphs_are_proved = not self.compilation.records_graphs
        if mode := self.compilation.mode:
            self._training_losses = torch.compile(training_losses, fullgraph=True, dynamic=False, mode=mode)
        if self.compilation.augmentation:
            self.augmentation.compile_core()

    def _prove_graphs(self) -> None:
        """Keep the CUDA graphs if their gradients are right on this device, else use the default mode."""
        mode, trainer = self.compilation.mode, self.trainer
        rank_zero_info(f"compile: testing the gradients of {mode}, which compiles a small step first")
        losses = keep_gradients(self._training_losses)
        is_right, why = False, "its CUDA graphs are tested for a single process only"
        if trainer.world_size == 1:
            is_right, why = prove_gradients(
                losses, self.network, self.criterion, as_size(self._data.image_size if self._data else 640),
                str(trainer.precision) != "32-true", trainer.precision_plugin.forward_context,
            )  # fmt: skip
        if not is_right:
            losses = torch.compile(training_losses, fullgraph=True, dynamic=False)
            self.compilation = replace(self.compilation, mode="default", records_graphs=False)
        self._training_losses, self._graphs_are_proved = losses, True
        rank_zero_info(f"compile: {mode if is_right else f'default instead of {mode}'}, because {why}")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The classic optimizer; :meth:`training_step` writes its settings before each batch."""
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return build_optimizer(
            self.network, self.optimizer_config, batch_size=self._total_batch_size, fused=scaler is None
        )

    def on_fit_start(self) -> None:
        """Check what was restored, and log the values that the classic recipe scales."""
        held = self.criterion.anchors_px()  # (L, A, 2)
        if self.anchors and held is not None and not torch.allclose(held.cpu(), read_anchors(self.anchors)):
            raise InputError(
                "model.anchors are not those of the run to resume; leave them out, with model.auto_anchor "
                "false, or start from its weights with --model.weights"
            )
        if (self.trainer.max_epochs or -1) < 0 and not self.optimizer_config.schedule_epochs:
            raise InputError("trainer.max_epochs is not set; the learning rate decays over this many epochs")
        self.augmentation.labels_per_image = getattr(self._data, "labels_per_image", 8.0)
        rank_zero_info(describe_scaling(self.optimizer_config, self._total_batch_size))
        side_px = mean_side(as_size(self._data.image_size)) if self._data else 640
        rank_zero_info(self.criterion.describe_gains(side_px))
        if (power := self.criterion.class_weight_power) > 0:
            counts = getattr(self._data, "class_counts", None)
            if counts is None:
                raise InputError(
                    "class_weight_power is set, but the data module has no class_counts; add them"
                )
            self.criterion.weigh_classes(counts, power, self.device)
        if self.trainer.world_size > 1:
            self.criterion.rank_mean, self.criterion.ranks = rank_mean, self.trainer.world_size
        if not self._graphs_are_proved:
            self._prove_graphs()

    def on_train_start(self) -> None:
        """Restore the gradients that waited when the run was stopped; Lightning clears earlier ones.

        From here on, frozen batch norms are in evaluation; Lightning would warn of them earlier.
        """
        for norm in self.frozen_norms:
            norm.eval()
        self.waiting, self._first_epoch = [], self.current_epoch
        self.accumulator.restore_gradients(self.network, self._total_batch_size)

    def training_step(self, batch: Batch, batch_index: int) -> None:
        """Augment a batch, add its gradients, and step after enough images.

        A batch that is left out counts for the schedule alone; the next one takes its place in the step.
        """
        settings = step_settings(
            self.optimizer_config,
            batch_index=batch_index,
            epoch=self.current_epoch,
            epochs=self._epochs,
            batches_per_epoch=int(self.trainer.num_training_batches),
            batch_size=self._total_batch_size,
            progress=self.schedule_progress,
        )
        optimizer = self.optimizers()
        apply_settings(optimizer, settings)  # type: ignore[arg-type]
        if batch_index == 0:
            self.running_losses = {}
        # A step that was begun without joint losses, in the run before, ends without them.
        joint = self.optimizer_config.joint_loss and not self.accumulator.pending
        if (self.current_epoch, batch_index) not in self.left_out:
            self.waiting.append(self._prepare(batch, batch_index))
        full = len(self.waiting) >= settings.accumulate
        if not self.waiting or (joint and not (full or is_followed_by_validation(self.trainer))):
            return
        batches, self.waiting = self.waiting, []
        parts = self._add_gradients(batches, joint)
        if self.inspect:
            self.inspect(batches, parts)
        if self.accumulator.window_is_full(1 if joint else settings.accumulate):
            optimizer.step()  # type: ignore[union-attr]
            optimizer.zero_grad(not self.compilation.records_graphs)  # type: ignore[union-attr]
        self.running_losses = add_to_means(self.running_losses, parts, batch_index + 1)

    def _add_gradients(self, batches: list[Prepared], joint: bool) -> list[dict[str, Tensor]]:
        """Add the gradients of batches, in more parts from here on if memory runs out in the first epoch."""
        ranks = self.trainer.world_size

        def add(parts: int) -> list[dict[str, Tensor]]:
            micro, self.micro_batches = split(batches, parts), parts
            # Classic YOLOv5 sums over images. DDP averages over ranks, which the last factor undoes.
            found = add_gradients(
                self._training_losses, self.network, self.criterion, micro, joint=joint or parts > 1,
                backward=lambda loss: self.manual_backward(loss * (len(micro[0].images) * ranks)),
            )  # fmt: skip
            return join(found, parts)

        def start_again(said: str) -> None:
            self.accumulator.pending = 0  # drops gradients that wait: some may be partial
            self.optimizers().zero_grad()  # type: ignore[union-attr]
            rank_zero_info(said)

        may = self.current_epoch == self._first_epoch and ranks == 1  # other ranks would wait
        return with_more_parts(add, self.micro_batches, len(batches[0].images) if may else 1, start_again)

    def _prepare(self, batch: Batch, batch_index: int) -> Prepared:
        rect = getattr(self._data, "rect", False)
        mosaic = not rect and self.current_epoch < self._epochs - self.augmentation_config.close_mosaic
        size = None
        if extent := self.augmentation_config.multi_scale:
            sizes = training_sizes(image_size(batch), extent, self.network.stride)
            size = draw_size(sizes, self.hparams["seed"], self.current_epoch, batch_index)
        unordered = not getattr(self._data, "copies_beside", False)
        device = batch.images.device
        with torch.autocast(device.type, enabled=False):
            work = partial(self.augmentation, batch, self.current_epoch, mosaic, size=size, rect=rect)
            prepared = Prepared(*run_beside(device, work, unordered))
        if self.on_augmented:
            self.on_augmented(*prepared)
        if not self.channels_last:  # convolutions take the memory format of their input
            prepared = prepared._replace(images=prepared.images.contiguous())
        return prepared

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient, which the precision plugin has unscaled."""
        if self.optimizer_config.gradient_clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(
                self.network.parameters(), self.optimizer_config.gradient_clip_norm, foreach=True
            )

    def on_validation_model_zero_grad(self) -> None:
        """Keep the gradients that wait for their step, which Lightning would clear."""

    def on_train_epoch_end(self) -> None:
        """Log the mean losses of the epoch and the learning rates it ended with."""
        losses = {f"train/{name}_loss": value for name, value in self.running_losses.items()}
        self.log_dict(losses, sync_dist=True)
        bias, weight = self.optimizers().param_groups[:2]  # type: ignore[union-attr]
        self.log_dict({"lr/bias": bias["lr"], "lr/weight": weight["lr"]})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        waiting = self.accumulator.state_dict(self.network, self._total_batch_size)
        checkpoint["accumulation"] = waiting | {"micro_batches": self.micro_batches}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trainer = attached_trainer(self)
        frozen = checkpoint.get("hyper_parameters", {}).get("freeze", 0)
        if trainer and trainer.training and frozen != self.freeze_option:
            raise InputError(
                f"model.freeze is {self.freeze_option}, but {frozen} in the run to resume, whose optimizer "
                "knows no other parameters; leave it out, or start from the weights with --model.weights"
            )
        self.accumulator.saved = saved = checkpoint.get("accumulation", {})
        self.micro_batches = saved.get("micro_batches", 1)
        if thresholds := checkpoint.get("hyper_parameters", {}).get("score_thresholds"):
            self.hparams["score_thresholds"] = thresholds

    @property
    def _epochs(self) -> int:
        return self.optimizer_config.schedule_epochs or int(self.trainer.max_epochs or 1)

    @property
    def _total_batch_size(self) -> int:
        batch_size = getattr(self._data, "batch_size", self.optimizer_config.nominal_batch_size)
        return int(batch_size) * self.trainer.world_size

    @property
    def backbone(self) -> nn.Sequential:
        """The layers under ``backbone`` in the model's YAML, as Lightning's ``BackboneFinetuning`` expects.

        That callback asks for them before Lightning calls :meth:`configure_model`, so they are built here.
        """
        if "network" not in self._modules:
            self.setup("fit")
            self.configure_model()
        return self.network.model[: len(read_architecture(self.architecture)[0]["backbone"])]


def _config(kind: type[Any], value: Any) -> Any:
    """A configuration, also from the plain dict of a checkpoint."""
    return kind(**value) if isinstance(value, dict) else value
