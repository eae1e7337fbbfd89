"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI with run directories and our callbacks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ActionYesNo
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ..data.module import DetectionDataModule
from ..distributed.ddp import DDPConfig, build_strategy
from ..distributed.facts import facts_of_run, index_facts
from ..distributed.joining import find_launch, join
from ..distributed.meeting import FirstAllReduce, Meeting
from ..errors import InputError
from ..inference.evaluations import EvaluationOptions, EvaluationWriter
from ..inference.options import PredictOptions
from ..inference.predictions import RESULTS, Finding, PredictionWriter
from ..monitoring.options import DashboardConfig
from ..monitoring.report.evaluation import EvaluationRecord
from ..monitoring.screen.progress import EpochProgress
from ..performance.step_profile import StepProfile
from ..runs.checkpoint_format import read_resumption
from ..runs.directory import CHECKPOINTS, claim_run_directory
from ..runs.divergence import GoBack
from ..runs.record import SaveConfig
from ..system.lightning_internals import CommandHooks
from ..training.ema import ExponentialMovingAverage
from ..training.module import YOLOv5
from ..training.other_callbacks import refuse_conflicting
from .batch_size import settle_batch_size
from .check_options import RunStart, read_data, refuse_absent_nodes, resolve_options
from .command_parser import SUBCOMMANDS, FitParser
from .exhaustion import explaining_exhaustion
from .fit_callbacks import RunOptions, log_again, tensorboard, training_callbacks, with_checkpoint_io

_RUN_DIRECTORY = "YOLO_LIGHTNING_RUN_DIRECTORY"
"""Environment variable that gives the run directory to processes that the first one starts."""
_TRAINER_DEFAULTS = {
    "max_epochs": 100,
    "enable_model_summary": False,
    "num_sanity_val_steps": 1,  # an error in validation shows before an epoch is spent
    "use_distributed_sampler": False,  # our samplers shard, without padding in validation
}


class YoloCLI(CommandHooks, LightningCLI):
    """LightningCLI with run directories, classes read from the data, and our callbacks."""

    run_directory: Path
    meeting: Meeting
    start: RunStart
    _first: FirstAllReduce
    _is_new = False
    """This process made the run directory."""

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Subcommands that :func:`launch` has asked for, with the arguments that have no option."""
        known = super().subcommands()
        return {name: known[name] for name in known if name in self.parser_kwargs}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_class_arguments(RunOptions)
        parser.add_class_arguments(DDPConfig, "ddp")
        parser.add_class_arguments(DashboardConfig, "dashboard")
        parser.add_class_arguments(ExponentialMovingAverage, "ema")
        parser.add_argument(
            "--trust_config", action=ActionYesNo, nargs="?",
            help="let the config.yaml of the run of --ckpt_path name any class, and so run any code",
        )  # fmt: skip
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def add_arguments_of_subcommand(self, subcommand: str, parser: LightningArgumentParser) -> None:
        if subcommand == "fit":
            parser.add_argument(
                "--profile", action=ActionYesNo, nargs="?",
                help="record 5 batches after 10 of warm-up: a trace, and the time by operator and by module",
            )  # fmt: skip
        if subcommand == "predict":
            parser.add_class_arguments(PredictOptions)
        if subcommand in ("validate", "test"):
            parser.add_class_arguments(EvaluationOptions)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)  # Lightning's own warns if the process has arguments, too
        seed = self.config[self.config.subcommand].seed_everything
        if not isinstance(seed, bool) and seed < 0:
            raise InputError(f"seed_everything is {seed}; give 0 or more")

    def before_instantiate_classes(self) -> None:
        """Meet the other processes, resolve the options, and claim the run directory."""
        config, subcommand = self.config[self.subcommand], str(self.subcommand)
        refuse_absent_nodes(config.trainer)
        self.meeting = join(find_launch(config), config.preflight_seconds)
        self.start = self.meeting.share("checking the options", lambda: resolve_options(config, subcommand))
        if subcommand == "fit":
            plan = partial(settle_batch_size, config)
            config.data.batch_size = self.meeting.decide("planning the batch size", plan)
        directory = self.meeting.decide("claiming the run directory", lambda: self._claim_directory(config))
        config.trainer.default_root_dir = directory
        self.run_directory = Path(directory)

    def _claim_directory(self, config: Any) -> str:
        """Directory of the run that continues, or a new one; the same for every process."""
        if self.start.directory:
            return str(self.start.directory)
        if getattr(rank_zero_only, "rank", 0):  # a process that Lightning has started
            return os.environ.get(_RUN_DIRECTORY, config.runs_dir)
        directory = str(claim_run_directory(config.runs_dir, config.run_name or str(self.subcommand)))
        self._is_new = True
        os.environ[_RUN_DIRECTORY] = directory
        return directory

    def instantiate_classes(self) -> None:
        """Build everything, and read the data before a process group starts."""
        config, meeting, stage = self.config[self.subcommand], self.meeting, str(self.subcommand)
        with self._removing_empty_run(), explaining_exhaustion(config, self.run_directory):
            if meeting.world_size > 1:
                facts = facts_of_run(config, self.run_directory, stage == "fit", self.start.step)
                for warning in meeting.compare(facts):
                    rank_zero_warn(warning)
            meeting.share("building the run", self._build)
            data, trainer = self.datamodule, self.trainer
            meeting.share("reading the data", lambda: read_data(data, stage, trainer))
            if meeting.world_size > 1 and stage != "predict":
                meeting.compare(index_facts(data.indices), "comparing the data")
            device, local = trainer.strategy.root_device, trainer.num_devices
            meeting.share("caching the images", lambda: data.prepare(stage, device, local))

    def _build(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:  # jsonargparse's, around what a logger or a callback raises
            cause: BaseException | None = error
            while cause and not isinstance(cause, ModuleNotFoundError | InputError):
                cause = cause.__cause__ or cause.__context__
            if cause:
                raise InputError(str(cause)) from error
            raise

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer with our callbacks, and with TensorBoard unless another logger was given."""
        options = self.config_init[self.subcommand]
        trainer = options.trainer
        strategy = build_strategy(trainer, options.ddp)
        given = trainer.callbacks or []
        given = given if isinstance(given, list) else [given]
        if self.subcommand == "fit":
            refuse_conflicting(given)  # before the data is read
        trainer.callbacks = [*given, *self._callbacks(options)]
        saves = any(isinstance(callback, Checkpoint) for callback in trainer.callbacks)
        kwargs["enable_checkpointing"] = None if saves else False  # False: Lightning adds none of its own
        if trainer.logger in (None, True):
            is_fit = self.subcommand == "fit"
            kwargs["logger"] = tensorboard(self.run_directory, self.start.purge_step) if is_fit else False
        if self.subcommand == "fit":
            kwargs["plugins"] = with_checkpoint_io(trainer.plugins, strategy)
        with _lightning_errors_as_input_errors():
            return super().instantiate_trainer(strategy=strategy, **kwargs)

    def _callbacks(self, options: Any) -> list[Callback]:
        """Our callbacks of a subcommand, in order."""
        # The first all-reduce connects the processes, before anything else needs the connection.
        self._first = FirstAllReduce(self.meeting)
        callbacks: list[Callback] = [self._first]
        if options.trainer.enable_progress_bar is not False:
            callbacks.append(EpochProgress(options.monitor))
        if self.subcommand == "predict":
            given = PredictOptions(**{option.name: options[option.name] for option in fields(PredictOptions)})
            callbacks += [Finding(given), PredictionWriter(given)]
        if self.subcommand in ("validate", "test"):
            callbacks.append(EvaluationWriter(EvaluationOptions(options.save_json, options.save_txt)))
            callbacks += [EvaluationRecord(self.run_directory)] if options.dashboard.curves else []
        if self.subcommand == "fit":
            callbacks.append(options.ema)  # before the others, so that they time it as a part of the step
            callbacks += [StepProfile(self.run_directory)] if options.profile else []
            callbacks += training_callbacks(
                self.run_directory,
                keep_checkpoints=options.trainer.enable_checkpointing is not False,
                checkpoint_minutes=options.checkpoint_minutes,
                patience=options.patience,
                deadline=options.deadline,
                dashboard=options.dashboard,
                monitor=options.monitor,
                save_period=options.save_period,
                save_top_k=options.save_top_k,
            )
        return callbacks

    def run_subcommand(self, subcommand: str) -> None:
        explaining = explaining_exhaustion(self.config[subcommand], self.run_directory)
        with (
            self._removing_empty_run(),
            self._first.watching(),
            explaining,
            _lightning_errors_as_input_errors(),
        ):
            while True:
                try:
                    return super().run_subcommand(subcommand)
                except GoBack as back:
                    log_again(self.trainer.loggers, read_resumption(back.checkpoint).purge_step)
                    self.config_init[subcommand].ckpt_path = str(back.checkpoint)

    @contextmanager
    def _removing_empty_run(self) -> Iterator[None]:
        """Remove the run directory after an error, if it is new and has no results."""
        try:
            yield
        except InputError:
            results = ("metrics.csv", *RESULTS, CHECKPOINTS)
            if self._is_new and not any((self.run_directory / name).exists() for name in results):
                shutil.rmtree(self.run_directory, ignore_errors=True)
            raise


class DryCLI(YoloCLI):
    """Resolves the options of ``fit`` and builds its objects, but runs and writes nothing."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        self.start = resolve_options(config, "fit")
        config.data.batch_size = settle_batch_size(config)
        self.run_directory = Path(config.runs_dir)

    def instantiate_classes(self) -> None:
        LightningCLI.instantiate_classes(self)
        self.datamodule.build_indices("fit")

    def _callbacks(self, options: Any) -> list[Callback]:
        return []

    def run_subcommand(self, subcommand: str) -> None:
        pass


Cli = TypeVar("Cli", bound=YoloCLI)


def launch(cli: type[Cli], args: list[str]) -> Cli:
    """Parse the subcommand and its options, and run it.

    Raises:
        InputError: an option or the data is wrong.
    """
    # The parser of a subcommand takes most of a second to build, as the docstrings of all classes are read.
    needed = [args[0]] if args[0] in SUBCOMMANDS else [*SUBCOMMANDS]
    return cli(
        YOLOv5,
        DetectionDataModule,
        save_config_callback=SaveConfig,
        trainer_defaults=_TRAINER_DEFAULTS,
        seed_everything_default=0,
        parser_class=FitParser,
        parser_kwargs={
            "prog": "yolo-lightning",
            **{
                name: {"usage": f"yolo-lightning {name} [options]", "description": SUBCOMMANDS[name]}
                for name in needed
            },
        },
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        args=args,
    )


@contextmanager
def _lightning_errors_as_input_errors() -> Iterator[None]:
    try:
        yield
    except MisconfigurationException as error:  # Lightning's class for wrong input
        raise InputError(" ".join(str(error).split())) from error
