"""Options to a run: LightningCLI with run directories, classes learnt from the data, and our callbacks."""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ..data.annotations.source import read_class_names
from ..distributed.all_reduce import ALL_REDUCE_S, FirstAllReduce
from ..distributed.ddp import DDPConfig, build_strategy
from ..distributed.facts import facts_of, index_facts
from ..distributed.joining import meet
from ..distributed.meeting import Meeting
from ..errors import InputError
from ..inference.predictions import PredictionWriter
from ..monitoring.options import DashboardConfig
from ..monitoring.screen.progress import EpochProgress
from ..runs.checkpoint_damage import newest_whole
from ..runs.directory import (
    CHECKPOINTS,
    DEFAULT_NAME,
    begun_run_directory,
    claim_run_directory,
    find_checkpoint,
    run_directory_of,
)
from ..runs.resumption import read_resumption
from ..system.lightning_internals import CommandHooks
from ..training.ema import ExponentialMovingAverage
from ..training.module import YOLOv5
from . import check_options as settings
from .fit_callbacks import tensorboard, training_callbacks, with_checkpoint_io
from .settle_auto import settle_step

YOLOV5_DEFAULT = inspect.signature(YOLOv5).parameters["architecture"].default

RUN_DIRECTORY = "YOLO_LIGHTNING_RUN_DIRECTORY"
"""Environment variable by which the first process tells those that it starts where the run lives."""

TRAINER_DEFAULTS = {
    "max_epochs": 100,
    "enable_model_summary": False,
    "num_sanity_val_steps": 1,  # an error in validation shows before an epoch is spent
    "use_distributed_sampler": False,  # our samplers shard, without padding in validation
}


class YoloCLI(CommandHooks, LightningCLI):
    """LightningCLI with run directories, classes learnt from the data, and our callbacks."""

    run_directory: Path
    meeting: Meeting
    checkpoint: Path | None = None
    _begun: Path | None = None
    """Run directory of a start that came to no checkpoint, which this one goes on in."""
    _purge_step: int | None = None
    _is_new, _step = False, 0

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--runs_dir", type=str, default="runs", help="Folder of all runs.")
        parser.add_argument(
            "--run_name",
            type=str | None,
            default=None,
            help="Runs of one name are numbered: RUNS_DIR/RUN_NAME/version_K (default: the subcommand).",
        )
        parser.add_argument(
            "--checkpoint_minutes",
            type=float,
            default=15.0,
            help="Minutes after which last.ckpt is written within an epoch, too; 0: only before a stop.",
        )
        parser.add_argument(
            "--patience",
            type=int,
            default=100,
            help="Epochs (validations) without a better val/map after which training ends; 0: never.",
        )
        parser.add_argument(
            "--preflight_seconds",
            type=float,
            default=120.0,
            help="How long processes that are started side by side wait for each other at the start.",
        )
        parser.add_class_arguments(DDPConfig, "ddp")
        parser.add_class_arguments(DashboardConfig, "dashboard")
        parser.add_class_arguments(ExponentialMovingAverage, "ema")
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)  # Lightning's would warn that the process has arguments too
        seed = self.config[self.config.subcommand].seed_everything
        if not isinstance(seed, bool) and seed < 0:
            raise InputError(f"seed_everything is {seed}; give 0 or more")

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        self.meeting = meet(config)
        self.meeting.share("checking the options", lambda: self._check_options(config))
        self._choose(config)
        directory = self.meeting.decide("claiming the run directory", lambda: self._claim_directory(config))
        self.run_directory = Path(directory)
        config.trainer.default_root_dir = directory

    def _check_options(self, config: Any) -> None:
        """Make the options definite, and refuse what cannot be."""
        settings.refuse_impossible(config)
        settings.make_paths_absolute(config)
        self._read_checkpoint(config)
        settings.check_source(config, str(self.subcommand))
        self._read_classes(config)
        if "verbose" in config:
            config.verbose = False  # the progress callback prints the table
        if "return_predictions" in config:
            config.return_predictions = False  # they are on disk; a large folder would fill the memory
        if "weights_only" in config:
            config.weights_only = True  # a checkpoint is data, not a program
        settings.check_values(config)

    def _choose(self, config: Any) -> None:
        settings.refuse_absent_nodes(config)
        settle_step(config, is_training=self.subcommand == "fit")

    def _read_checkpoint(self, config: Any) -> None:
        """Find the checkpoint, and take from it what the network has to be."""
        if not config.ckpt_path:
            return
        name = config.run_name or DEFAULT_NAME
        found = find_checkpoint(config.ckpt_path, config.runs_dir, name)
        if found is None and self.subcommand != "fit":
            raise InputError(
                f"--ckpt_path auto: no run of '{name}' in {config.runs_dir} has a checkpoint; "
                "train first, or give a path"
            )
        if found is None:
            config.ckpt_path, self._purge_step = None, 0
            self._begun = begun_run_directory(config.runs_dir, name)
            rank_zero_info(f"there is no checkpoint of '{name}' in {config.runs_dir} yet; training starts")
            return
        self.checkpoint = newest_whole(found, rank_zero_warn)
        config.ckpt_path = str(self.checkpoint)
        resumed = read_resumption(self.checkpoint)
        known, self._step, self._purge_step = resumed.hyper_parameters, resumed.step, resumed.purge_step
        rank_zero_info(str(resumed))
        if self.subcommand == "fit":
            resumed.check_epochs(config.trainer.max_epochs)
        asked = config.model.architecture
        # With the configuration of its run in front, whatever differs was asked for.
        unasked = None if run_directory_of(self.checkpoint) else YOLOV5_DEFAULT
        if asked not in (unasked, known["architecture"]):
            raise InputError(
                f"{self.checkpoint}: holds a {known['architecture']}, not a {asked}; "
                "leave --model.architecture out"
            )
        for option in ("architecture", "num_classes", "class_names", "category_ids", "channels_last"):
            config.model[option] = known.get(option, config.model[option])
        config.model.weights = None  # the checkpoint replaces them, and the file may be gone

    def _read_classes(self, config: Any) -> None:
        """Resolve the classes now, so that the saved configuration holds them."""
        if self.subcommand == "predict":
            return
        data = config.data
        names = list(
            read_class_names(
                data.root,
                data.train_annotations,
                data.val_annotations,
                data.test_annotations,
                splits=("test",) if self.subcommand == "test" else ("val", "train"),
            )
        )
        if config.model.num_classes not in (None, len(names)):
            origin = self.checkpoint or "model.num_classes"
            raise InputError(
                f"{data.root}: has {len(names)} classes but {origin} "
                f"has {config.model.num_classes}; use the data set that belongs to it"
            )
        if self.checkpoint and names != config.model.class_names:
            rank_zero_warn(f"{data.root}: its classes have other names than those of {self.checkpoint}")
        config.model.num_classes, config.model.class_names = len(names), names

    def _claim_directory(self, config: Any) -> str:
        """The directory of the run that is resumed, or a new one; the same for every process of a run."""
        resumed = run_directory_of(self.checkpoint) if self.checkpoint and self.subcommand == "fit" else None
        if resumed or self._begun:
            return str(resumed or self._begun)
        if getattr(rank_zero_only, "rank", 0):  # only rank zero writes, except where it says where
            return os.environ.get(RUN_DIRECTORY, config.runs_dir)
        directory = claim_run_directory(config.runs_dir, config.run_name or str(self.subcommand))
        self._is_new = True
        os.environ[RUN_DIRECTORY] = str(directory)
        return str(directory)

    def instantiate_classes(self) -> None:
        """Build everything, and read the data before any process group starts."""
        config, meeting = self.config[self.subcommand], self.meeting
        with self._directory_given_back():
            if meeting.world_size > 1:
                facts = facts_of(config, self.run_directory, self.subcommand == "fit", self._step)
                for warning in meeting.compare(facts):
                    rank_zero_warn(warning)
            meeting.share("building the run", self._build)
            data, trainer, stage = self.datamodule, self.trainer, str(self.subcommand)
            meeting.share("reading the data", lambda: settings.read_data(data, stage, trainer))
            if meeting.world_size > 1 and self.subcommand != "predict":
                meeting.compare(index_facts(data.indices), "comparing the data")
            device, local = trainer.strategy.root_device, trainer.num_devices
            meeting.share("caching the images", lambda: data.prepare(stage, device, local))

    def _build(self) -> None:
        try:
            super().instantiate_classes()
        except MisconfigurationException as error:  # Lightning's word for wrong input
            raise InputError(" ".join(str(error).split())) from error

    def run_subcommand(self, subcommand: str) -> None:
        with self._directory_given_back():
            super().run_subcommand(subcommand)

    @contextmanager
    def _directory_given_back(self) -> Iterator[None]:
        """Leave no run behind where wrong input let nothing be run."""
        try:
            yield
        except (InputError, MisconfigurationException) as error:
            results = ("metrics.csv", "predictions.json", CHECKPOINTS)
            if self._is_new and not any((self.run_directory / name).exists() for name in results):
                shutil.rmtree(self.run_directory, ignore_errors=True)
            if isinstance(error, InputError):
                raise
            raise InputError(" ".join(str(error).split())) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Lightning's Trainer with our callbacks, and TensorBoard unless another logger was asked for."""
        logger = self._built("trainer").get("logger")
        if logger is None or logger is True:
            kwargs["logger"] = self._tensorboard() if self.subcommand == "fit" else False
        trainer_config = self._built("trainer")
        keep = trainer_config.get("enable_checkpointing") is not False
        given = trainer_config.get("callbacks") or []
        callbacks = [*(given if isinstance(given, list) else [given]), *self._callbacks(keep)]
        trainer_config["callbacks"] = callbacks
        # None leaves it to the callbacks; False keeps Lightning from adding a checkpoint of its own.
        kwargs["strategy"] = build_strategy(
            trainer_config.get("strategy"),
            accelerator=trainer_config.get("accelerator"),
            devices=trainer_config.get("devices"),
            num_nodes=int(trainer_config.get("num_nodes")),
            sync_batchnorm=bool(trainer_config.get("sync_batchnorm")),
            config=self._built("ddp"),
        )
        kwargs["enable_checkpointing"] = None if any(isinstance(c, Checkpoint) for c in callbacks) else False
        if self.subcommand == "fit":
            kwargs["plugins"] = with_checkpoint_io(trainer_config.get("plugins"), kwargs["strategy"])
        return super().instantiate_trainer(**kwargs)

    def _built(self, name: str) -> Any:
        """An option of the subcommand, after its classes were instantiated."""
        return self.config_init[self.subcommand].get(name)

    def _tensorboard(self) -> TensorBoardLogger:
        return tensorboard(self.run_directory, self._purge_step)

    def _callbacks(self, keep_checkpoints: bool) -> list[Callback]:
        bar = self._built("trainer").get("enable_progress_bar") is not False
        # Before anything else uses the process group. It may take a moment to connect it.
        callbacks: list[Callback] = [FirstAllReduce(self.meeting, ALL_REDUCE_S)]
        callbacks += [EpochProgress()] if bar else []
        if self.subcommand == "predict":
            callbacks.append(PredictionWriter())
        if self.subcommand == "fit":
            options = self.config[self.subcommand]
            callbacks.append(self._built("ema"))  # within the step, for those that measure it
            callbacks += training_callbacks(
                self.run_directory,
                keep_checkpoints,
                options.checkpoint_minutes,
                options.patience,
                self._built("dashboard"),
            )
        return callbacks


class DryCLI(YoloCLI):
    """Builds and checks what ``fit`` would, and runs and writes nothing."""

    @property
    def ema(self) -> ExponentialMovingAverage:
        """Averaging of the weights, as ``fit`` would have it."""
        return cast(ExponentialMovingAverage, self._get(self.config_init, "ema"))

    def _claim_directory(self, config: Any) -> str:
        return str(config.runs_dir)

    def _choose(self, config: Any) -> None:
        settle_step(config, is_training=True)

    def instantiate_classes(self) -> None:
        LightningCLI.instantiate_classes(self)
        self.datamodule.build_indices("fit")

    def _callbacks(self, keep_checkpoints: bool) -> list[Callback]:
        return []

    def run_subcommand(self, subcommand: str) -> None:
        """Nothing."""
