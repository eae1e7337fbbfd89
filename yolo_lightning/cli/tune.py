"""``yolo-lightning tune``: searches hyper-parameters with Optuna, each trial a ``fit`` of its own."""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import shlex
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..errors import InputError
from ..runs.best_epoch import MONITOR, is_judged
from ..runs.directory import METRICS, read_metrics
from ..system.files import write_whole
from .command_parser import CommandParser
from .launcher import DryCLI, launch
from .tune_space import Values, search_space

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

_DESCRIPTION = f"""Searches hyper-parameters with Optuna. Each trial is a fit in a process of its own. The
first one has the options as given, the others vary what --space lists. A trial that at some epoch is worse
than the median of the others ends early. The value of a trial is its best {MONITOR}.

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
_DATABASE, _BEST = "study.db", "best.yaml"
_FIRST = "options as given"
"""Attribute of the trial that varies nothing."""
_STATUS = "exit status"
"""Attribute of a trial whose fit has failed."""
_POLL_S = 0.5
_HEARTBEAT_S = 20
"""Time after which a process tells the others that it lives; after twice the time its trial is repeated."""
_RANDOM_TRIALS = 1
"""Trials before the sampler follows the results: it then looks around the best ones, at first those given."""


class _TrialFailed(Exception):
    """The fit of a trial has failed; the study goes on."""


def run_tune(argv: list[str]) -> None:
    """Search hyper-parameters with the arguments of a command line.

    Raises:
        InputError: an option or the data is wrong, or the first trial fails.
        SystemExit: the search was interrupted.
    """
    usage = "[--trials N] [--epochs N] [--timeout MINUTES] [--study DIR] [--space FILE] [options of fit]"
    parser = CommandParser("tune", usage, _DESCRIPTION, _EPILOG)
    parser.add_argument(
        "--trials", type=int, default=30, metavar="N", help="trials of the study (default: 30)"
    )
    parser.add_argument("--epochs", type=int, default=30, metavar="N", help="epochs of each (default: 30)")
    parser.add_argument(
        "--timeout", type=float, default=float("inf"), metavar="MINUTES", help="begin no trial afterwards"
    )
    parser.add_argument("--study", default="runs/tune", metavar="DIR", help="folder (default: runs/tune)")
    parser.add_argument("--space", metavar="FILE", help="YAML with ranges of your own: 'option: [low, high]'")
    for name in _SET_HERE:
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    options, of_fit = parser.parse_known_args(argv)
    for name in ("trials", "epochs", "timeout"):
        if not getattr(options, name) > 0:
            raise InputError(f"--{name} is {getattr(options, name)}; give a number above 0")
    for name in _SET_HERE:
        if getattr(options, name) is not None:
            raise InputError(f"tune sets --{name} for each trial; leave it out")
    _require_optuna()
    until = time.monotonic() + 60 * options.timeout
    folder = Path(options.study).expanduser().absolute()
    config = launch(DryCLI, ["fit", *of_fit]).config["fit"]
    space = search_space(config, options.space)
    study = _open_study(folder, of_fit, options.epochs, space)
    trials = _Trials(folder, of_fit, options.epochs, space)
    try:
        _search(study, trials, options.trials, until)
    except KeyboardInterrupt:
        print(f"interrupted; the same command continues the study in {folder}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    _print_results(study, folder, of_fit)


def _require_optuna() -> None:
    try:
        import optuna
    except ImportError:
        raise InputError("tune needs Optuna; install it: pip install yolo-lightning[tune]") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def _open_study(folder: Path, of_fit: list[str], epochs: int, space: dict[str, Values]) -> Study:
    """The study in a folder; a new one begins with the trial of the options as given."""
    from optuna import create_study
    from optuna.pruners import MedianPruner
    from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback

    options = [*of_fit, f"--epochs={epochs}"]
    made_with = json.loads(json.dumps({"options": options, "space": {n: vars(v) for n, v in space.items()}}))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # one process makes the tables and the first trial
        storage = RDBStorage(
            f"sqlite:///{folder / _DATABASE}",
            heartbeat_interval=_HEARTBEAT_S,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
        )
        study = create_study(
            storage=storage, study_name="tune", direction="maximize", load_if_exists=True,
            pruner=MedianPruner(n_warmup_steps=epochs // 3),
        )  # fmt: skip
        before = study.user_attrs.get("made with")
        if before is None:
            study.enqueue_trial({name: v.start for name, v in space.items()}, user_attrs={_FIRST: True})
            study.set_user_attr("made with", made_with)
        elif before != made_with:
            given = shlex.join(before["options"])
            raise InputError(
                f"{folder}: this study was made with other options ({given}) or another --space; "
                "repeat those, or give another --study"
            )
    return study


class _Trials:
    """Runs a trial: its ``fit`` in a process of its own, watched through the metrics that it writes.

    Args:
        folder: folder of the study.
        of_fit: options of ``fit``.
        epochs: epochs of a trial.
        space: what varies.
    """

    def __init__(self, folder: Path, of_fit: list[str], epochs: int, space: dict[str, Values]) -> None:
        self.folder = folder
        self.of_fit = of_fit
        self.epochs = epochs
        self.space = space

    def __call__(self, trial: Trial) -> float:
        """Train; the best ``val/map``.

        Raises:
            TrialPruned: the trial was ended early.
            _TrialFailed: the training has failed, but not that of the options as given.
            InputError: the training with the options as given has failed.
        """
        from optuna import TrialPruned

        chosen = {name: values.suggest(name, trial) for name, values in self.space.items()}
        run = self.folder / f"trial-{trial.number}"
        run.mkdir(exist_ok=True)
        output = run / "output.txt"
        options = [
            *_OF_TRIALS, *self.of_fit, *(f"--{name}={json.dumps(value)}" for name, value in chosen.items()),
            f"--trainer.max_epochs={self.epochs}", f"--runs_dir={self.folder}", f"--run_name={run.name}",
        ]  # fmt: skip
        try:
            status, values = self._train(trial, options, output)
        except KeyboardInterrupt:
            trial.study.enqueue_trial(chosen, user_attrs=trial.user_attrs)
            raise
        if status is None:
            print(f"trial {trial.number}: ended early at {MONITOR} {max(values):.4f}", flush=True)
            raise TrialPruned
        if status == 0 and values:
            print(f"trial {trial.number}: {MONITOR} {max(values):.4f}", flush=True)
            return max(values)
        if trial.user_attrs.get(_FIRST):
            trial.study.enqueue_trial(chosen, user_attrs=trial.user_attrs)
            lines = output.read_text(errors="replace").strip().splitlines() or [f"status {status}"]
            raise InputError(f"the training with the options as given fails: {lines[-1]} (see {output})")
        trial.set_user_attr(_STATUS, status)
        print(f"trial {trial.number}: failed with status {status}, see {output}", flush=True)
        raise _TrialFailed

    def _train(self, trial: Trial, options: list[str], output: Path) -> tuple[int | None, list[float]]:
        """Status of the process, None if the trial was ended early, and ``val/map`` of its epochs."""
        values: list[float] = []
        is_pruned = False
        command = [sys.executable, "-m", "yolo_lightning", "fit", *options]
        ends_with_us = _end_with_parent if sys.platform == "linux" else None
        with (
            output.open("w") as file,
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                preexec_fn=ends_with_us,
            ) as child,
        ):  # fmt: skip
            try:
                while child.poll() is None:
                    time.sleep(_POLL_S)
                    if not is_pruned and self._report(trial, output.parent, values):
                        is_pruned = True
                        child.terminate()
            except BaseException:
                child.terminate()
                raise
        self._report(trial, output.parent, values)
        return None if is_pruned else child.returncode, values

    def _report(self, trial: Trial, run: Path, values: list[float]) -> bool:
        """Report new epochs, and tell whether the trial should end early."""
        judged = [
            row for row in read_metrics(run / "version_0" / METRICS) if is_judged(row.get(MONITOR, -1.0))
        ]
        new = judged[len(values) :]
        for row in new:
            values.append(row[MONITOR])
            trial.report(row[MONITOR], int(row["epoch"]))
        return bool(new) and new[-1]["epoch"] < self.epochs - 1 and trial.should_prune()


def _end_with_parent() -> None:
    """Have Linux end this process when its parent is killed, or two trainings would share the machine."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _search(study: Study, trials: _Trials, most: int, until: float) -> None:
    """Run trials until the study has ``most``; then wait for those of other processes.

    Processes that begin their last trials at the same moment may run one more each.
    """
    from optuna.samplers import TPESampler
    from optuna.storages import fail_stale_trials
    from optuna.trial import TrialState

    while time.monotonic() < until:
        fail_stale_trials(study)
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if len(running) + len(_ended(study)) < most:
            # The number of trials is the seed: processes draw different values, and a new start other ones.
            study.sampler = TPESampler(
                multivariate=True, constant_liar=True, n_startup_trials=_RANDOM_TRIALS,
                seed=len(study.get_trials(deepcopy=False)),
            )  # fmt: skip
            study.optimize(trials, n_trials=1, catch=(_TrialFailed,))
            _write_best(study, trials.folder)
        elif running:
            time.sleep(_POLL_S)
        else:
            return


def _ended(study: Study) -> list[FrozenTrial]:
    """Trials that count: not those that were killed, which are repeated."""
    return [t for t in study.get_trials(deepcopy=False) if t.value is not None or _STATUS in t.user_attrs]


def _write_best(study: Study, folder: Path) -> None:
    from optuna.trial import TrialState

    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        return
    best = study.best_trial
    nested: dict[str, Any] = {}
    for name, value in best.params.items():
        *groups, key = name.split(".")
        group = nested
        for each in groups:
            group = group.setdefault(each, {})
        group[key] = value
    comment = f"# {MONITOR} {best.value:.4f} in trial {best.number} of {folder}\n"
    write_whole(folder / _BEST, comment + yaml.safe_dump(nested, sort_keys=False))


def _print_results(study: Study, folder: Path, of_fit: list[str]) -> None:
    import matplotlib
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        print("no trial has ended")
        return
    matplotlib.use("Agg")
    from optuna.importance import PedAnovaImportanceEvaluator
    from optuna.visualization import matplotlib as plots

    axes = {"history": plots.plot_optimization_history(study)}
    if len(complete) > 1:
        axes["importances"] = plots.plot_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    for name, each in axes.items():
        each.figure.savefig(folder / f"{name}.png", bbox_inches="tight", dpi=120)
    first = next((t.value for t in complete if _FIRST in t.user_attrs), None)
    as_given = "" if first is None else f"; {first:.4f} with the options as given"
    print(f"\nbest {MONITOR} {study.best_value:.4f} in trial {study.best_trial.number}{as_given}")
    for file in (folder / _BEST, *(folder / f"{name}.png" for name in axes)):
        print(file)
    print("Train with it: yolo-lightning fit " + shlex.join([*of_fit, "--config", str(folder / _BEST)]))
