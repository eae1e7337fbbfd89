"""``yolo-lightning tune``: searches hyper-parameters with Optuna, each trial a ``fit`` of its own."""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jsonargparse import Namespace

from ..errors import InputError
from ..runs.best_epoch import MONITOR, checked_monitor, is_judged, mode_of
from ..runs.directory import METRICS, read_metrics
from ..system.files import write_whole
from ..system.text import first_line
from .command_parser import CommandParser
from .launcher import DryCLI, launch
from .tune_space import Values, search_space

if TYPE_CHECKING:
    from optuna import Study, Trial

_DESCRIPTION = """Searches hyper-parameters with Optuna. Each trial is a fit in a process of its own. The
first one has the options as given, the others vary what --space lists. The value of a trial is its best
val/map, or that of another --monitor. A trial that at some epoch is worse than the median of the others is
ended.

The folder of the study holds everything: the same command continues a study, and several of them at once
share it. A trial whose process was killed is repeated. Writes best.yaml, history.png and importances.png."""
_EPILOG = """The other options are those of fit, such as --data.root DIR and --model.weights FILE; see:
yolo-lightning fit --help"""
_OF_TRIALS = [
    "--trainer.enable_checkpointing=false", "--dashboard.pictures=0", "--dashboard.curves=false",
    "--dashboard.report=false",
]  # fmt: skip
"""Options of each trial, unless others are given: only its metrics are of use."""
_SET_HERE = ("runs_dir", "run_name", "ckpt_path", "seeds", "trainer.max_epochs")
_BEST = "best.yaml"
_AS_GIVEN, _STATUS = "options as given", "exit status"
"""Attributes of the trial that varies nothing, and of those whose fit has failed."""
_POLL_S = 0.5
_HEARTBEAT_S = 20
"""Time between signs of life of a process; after twice the time without one its trial is repeated."""


class _TrialFailed(Exception):
    """The fit of a trial has failed; the study goes on."""


def run_tune(argv: list[str]) -> None:
    """Search hyper-parameters with the arguments of a command line.

    Raises:
        InputError: an option or the data is wrong, or the training with the options as given fails.
        SystemExit: the search was interrupted.
    """
    usage = "[--trials N] [--epochs N] [--timeout MINUTES] [--study DIR] [--space FILE] [options of fit]"
    parser = CommandParser("tune", usage, _DESCRIPTION, _EPILOG)
    parser.add_argument("--trials", type=int, default=30, help="trials of the study (default: 30)")
    parser.add_argument("--epochs", type=int, default=30, help="epochs of each (default: 30)")
    parser.add_argument(
        "--timeout", type=float, default=float("inf"), help="minutes until the last one begins"
    )
    parser.add_argument("--study", default="runs/tune", help="folder of the study (default: runs/tune)")
    parser.add_argument(
        "--space", help="YAML file of what varies: 'option: [low, high]' (default: as yolov5)"
    )
    for name in _SET_HERE:
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    options, of_fit = parser.parse_known_args(argv)
    for name in ("trials", "epochs", "timeout"):
        if not getattr(options, name) > 0:
            raise InputError(f"--{name} is {getattr(options, name)}; give a number above 0")
    for name in _SET_HERE:
        if getattr(options, name) is not None:
            raise InputError(f"tune sets --{name} for each trial; leave it out")
    try:
        import optuna
    except ImportError:
        raise InputError("tune needs Optuna; install it: pip install yolo-lightning[tune]") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    until = time.monotonic() + 60 * options.timeout
    folder = Path(options.study).expanduser().absolute()
    config = launch(DryCLI, ["fit", *of_fit]).config["fit"]
    monitor, space = checked_monitor(config.monitor), search_space(config, options.space)
    if mode_of(monitor) == "min":
        raise InputError(
            f"tune varies the gains of the loss, so {monitor} is no measure; give another --monitor"
        )
    study = open_study(folder, of_fit, options.epochs, space)
    try:
        _search(study, Trials(folder, of_fit, options.epochs, space, monitor), options.trials, until)
    except KeyboardInterrupt:
        print(f"interrupted; the same command continues the study in {folder}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    _print_results(study, folder, of_fit, monitor)


def open_study(folder: Path, of_fit: list[str], epochs: int, space: dict[str, Values]) -> Study:
    """The study in a folder; a new one begins with the trial of the options as given.

    Raises:
        InputError: the study was made with other options, or the folder cannot be written.
    """
    from optuna import create_study, pruners, storages

    made_with = {"options": [*of_fit, f"--epochs={epochs}"], "space": {n: vars(v) for n, v in space.items()}}
    made_with = json.loads(json.dumps(made_with))  # as the study returns it
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise InputError(f"--study {folder}: {error.strerror}; give a folder that can be written") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process makes the tables and the first trial
        pruner = pruners.MedianPruner(n_warmup_steps=epochs // 3)
        try:
            storage = storages.RDBStorage(
                f"sqlite:///{folder}/study.db",
                heartbeat_interval=_HEARTBEAT_S,
                heartbeat_stale_trial_callback=storages.RetryHeartbeatStaleTrialCallback(),
            )
            study = create_study(
                storage=storage, study_name="tune", direction="maximize", load_if_exists=True, pruner=pruner
            )
            before = study.user_attrs.get("made with")
        except Exception as error:
            cause: BaseException = error
            while cause.__cause__:  # Optuna's and SQLAlchemy's errors, around the one of sqlite
                cause = cause.__cause__
            if not isinstance(cause, sqlite3.Error):
                raise
            raise InputError(
                f"{folder}/study.db: cannot be read as a study ({first_line(cause)}); "
                "put a whole copy in its place, or begin anew with another --study"
            ) from error
        if before is None:
            study.enqueue_trial({name: v.start for name, v in space.items()}, user_attrs={_AS_GIVEN: True})
            study.set_user_attr("made with", made_with)
        elif before != made_with:
            raise InputError(
                f"{folder}: this study was made with other options ({shlex.join(before['options'])}) or "
                "another --space; repeat them, or give another --study"
            )
    return study


@dataclass
class Trials:
    """Runs a trial: its ``fit`` in a process of its own, watched through the metrics that it writes."""

    folder: Path  # of the study
    of_fit: list[str]  # options of ``fit``
    epochs: int  # of a trial
    space: dict[str, Values]  # what varies
    monitor: str = MONITOR  # metric whose best value is that of a trial

    def __call__(self, trial: Trial) -> float:
        """Train; the best value of the monitor.

        Raises:
            TrialPruned: the trial was ended early.
            _TrialFailed: the training has failed.
            InputError: the training with the options as given has failed.
        """
        from optuna import TrialPruned

        chosen = {name: values.suggest(name, trial) for name, values in self.space.items()}
        run = self.folder / f"trial-{trial.number}"
        run.mkdir(exist_ok=True)
        options = [
            *_OF_TRIALS, *self.of_fit, *(f"--{name}={json.dumps(value)}" for name, value in chosen.items()),
            f"--trainer.max_epochs={self.epochs}", f"--runs_dir={self.folder}", f"--run_name={run.name}",
        ]  # fmt: skip
        try:
            status, values = self._train(trial, options, run)
        except KeyboardInterrupt:
            trial.study.enqueue_trial(chosen, user_attrs=trial.user_attrs)
            raise
        if status == 0 and values:
            print(f"trial {trial.number}: {self.monitor} {max(values):.4f}", flush=True)
            return max(values)
        if status is None:
            print(f"trial {trial.number}: ended after {len(values)} epochs at {values[-1]:.4f}", flush=True)
            raise TrialPruned
        output = run / "output.txt"
        if trial.user_attrs.get(_AS_GIVEN):
            trial.study.enqueue_trial(chosen, user_attrs=trial.user_attrs)
            last = [f"status {status}", *output.read_text(errors="replace").strip().splitlines()][-1]
            raise InputError(f"the training with the options as given fails: {last} (see {output})")
        trial.set_user_attr(_STATUS, status)
        print(f"trial {trial.number}: failed with status {status}, see {output}", flush=True)
        raise _TrialFailed

    def _train(self, trial: Trial, options: list[str], run: Path) -> tuple[int | None, list[float]]:
        """Status of the process, None if the trial was ended early, and the monitor of its epochs."""
        values: list[float] = []
        is_pruned = False
        ends_with_us = _end_with_parent if sys.platform == "linux" else None
        with (
            (run / "output.txt").open("w") as file,
            subprocess.Popen(
                [sys.executable, "-m", "yolo_lightning", "fit", *options], stdin=subprocess.DEVNULL,
                stdout=file, stderr=subprocess.STDOUT, preexec_fn=ends_with_us,
            ) as child,
        ):  # fmt: skip
            try:
                while child.poll() is None:
                    time.sleep(_POLL_S)
                    if not is_pruned and self._report(trial, run, values):
                        is_pruned = True
                        child.terminate()
            except BaseException:
                child.terminate()
                raise
        self._report(trial, run, values)
        return None if is_pruned else child.returncode, values

    def _report(self, trial: Trial, run: Path, values: list[float]) -> bool:
        """Report new epochs, and tell whether the trial should end early."""
        rows = read_metrics(run / "version_0" / METRICS)
        new = [row for row in rows if is_judged(row.get(self.monitor, -1.0))][len(values) :]
        for row in new:
            values.append(row[self.monitor])
            trial.report(row[self.monitor], int(row["epoch"]))
        return bool(new) and new[-1]["epoch"] < self.epochs - 1 and trial.should_prune()


def _end_with_parent() -> None:
    """Have Linux end this process when its parent is killed, or two trainings would share the machine."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _search(study: Study, trials: Trials, most: int, until: float) -> None:
    """Run trials until the study has ``most``; then wait for those of other processes.

    Processes that begin their last trials at the same moment may run one more each.
    """
    from optuna import samplers, storages
    from optuna.trial import TrialState

    while time.monotonic() < until:
        storages.fail_stale_trials(study)  # and repeat them
        known = study.get_trials(deepcopy=False)
        running = sum(t.state == TrialState.RUNNING for t in known)
        ended = sum(t.value is not None or _STATUS in t.user_attrs for t in known)
        if running + ended < most:
            # One trial alone is drawn at random: from the first one on, the sampler looks around the best.
            study.sampler = samplers.TPESampler(
                multivariate=True, constant_liar=True, n_startup_trials=1, seed=len(known)
            )
            study.optimize(trials, n_trials=1, catch=(_TrialFailed,))
            _write_best(study, trials)
        elif running:
            time.sleep(_POLL_S)
        else:
            return


def _complete(study: Study) -> list[Any]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _write_best(study: Study, trials: Trials) -> None:
    if not _complete(study):
        return
    best = study.best_trial
    options = Namespace()  # nests names by their dots
    for name, value in best.params.items():
        options[name] = value
    comment = f"# {trials.monitor} {best.value:.4f} in trial {best.number} of {trials.folder}\n"
    write_whole(trials.folder / _BEST, comment + yaml.safe_dump(options.as_dict(), sort_keys=False))


def _print_results(study: Study, folder: Path, of_fit: list[str], monitor: str) -> None:
    import matplotlib
    from optuna.importance import PedAnovaImportanceEvaluator

    complete = _complete(study)
    if not complete:
        print("no trial has ended; give a longer --timeout, and the same command continues the study")
        return
    matplotlib.use("Agg")
    from optuna.visualization import matplotlib as plots

    with matplotlib.rc_context():  # Optuna sets the style of every later picture of the process
        axes: dict[str, Any] = {"history": plots.plot_optimization_history(study)}
        if len(complete) > 1:
            axes["importances"] = plots.plot_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
        for name, each in axes.items():
            each.figure.savefig(folder / f"{name}.png", bbox_inches="tight", dpi=120)
    first = "".join(
        f"; {t.value:.4f} with the options as given" for t in complete if _AS_GIVEN in t.user_attrs
    )
    print(f"\nbest {monitor} {study.best_value:.4f} in trial {study.best_trial.number}{first}")
    for file in (_BEST, *(f"{name}.png" for name in axes)):
        print(folder / file)
    print("Train with it: yolo-lightning fit " + shlex.join([*of_fit, "--config", str(folder / _BEST)]))
