"""Options of a whole run. Each field is an option of the command line; its docstring is the help."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RunOptions:
    """Run directory, checkpoints and the end of a run."""

    runs_dir: str = "runs"
    """Folder of all runs."""
    run_name: str | None = None
    """Runs of one name are numbered: RUNS_DIR/RUN_NAME/version_K (default: the subcommand)."""
    checkpoint_minutes: float = 15.0
    """Minutes after which last.ckpt is written within an epoch, too; 0: only before a stop."""
    patience: int = 100
    """Epochs (validations) without a better val/map after which training ends; 0: never."""
    preflight_seconds: float = 120.0
    """Longest wait for the other processes at the start, if they are started side by side."""
