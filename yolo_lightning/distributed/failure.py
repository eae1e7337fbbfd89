"""Who of many processes says what is wrong, and how the others end in silence."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Mapping, Sequence

from ..errors import InputError

SIBLINGS_S = 3.0
"""How far apart processes of one host that fail for the same reason may fail, in s."""
_TO_PRINT_S = 2.0
"""How long the one that says it may take from there to have printed it, in s."""

_held: list[int] = []
"""Locks of what this process said, held until it ends."""


class _State:
    is_failing = False


class FailedElsewhere(InputError):
    """Another process says what is wrong: this one ends with status 2 and prints nothing."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        _State.is_failing = True


def is_failing() -> bool:
    """Whether this process knows that all of the run end for something that is wrong.

    Until it has ended, its launcher may send it SIGTERM, which then is no wish to stop a run that is well.
    """
    return _State.is_failing


def note_failing() -> None:
    """From here on :func:`is_failing`."""
    _State.is_failing = True


def say_on_host(sentence: str, subject: str) -> InputError:
    """The exception for what no other host can be told: loud in one process of this host, else quiet.

    The quiet ones get it when the loud one has printed the sentence: a launcher that sees any process
    end ends the others, which may be the one that speaks.

    Args:
        sentence: what is wrong, and what to do.
        subject: the same for all processes of the host that would say the same.
    """
    note_failing()
    if _is_first_on_host(subject):
        return InputError(sentence)
    time.sleep(SIBLINGS_S + _TO_PRINT_S)
    return FailedElsewhere(sentence)


def _is_first_on_host(subject: str) -> bool:
    """Whether no other process of this run and host is saying it at the moment."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    step = "/".join(os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    door = ":".join(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    run = os.environ.get("TORCHELASTIC_RUN_ID") or step.strip("/") or door.strip(":") or os.getppid()
    digest = hashlib.sha256(f"{os.getuid()}/{run}/{subject}".encode()).hexdigest()[:16]
    path = os.path.join(tempfile.gettempdir(), f"yolo_lightning_{digest}.lock")
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        return not isinstance(error, BlockingIOError)
    _held.append(lock)
    time.sleep(SIBLINGS_S)  # those that come a little later find the lock held
    os.unlink(path)
    return True


def name_ranks(ranks: Sequence[int], hosts: Mapping[int, str]) -> str:
    """Ranks and where they are: ``rank 1 on a``, ``ranks 2, 3 on b``, ``ranks 1, 2 (a, b)``.

    Args:
        ranks: at least one, ascending.
        hosts: rank to host; those that are not known are left out.
    """
    word = "rank" if len(ranks) == 1 else "ranks"
    numbers = _shorten([str(rank) for rank in ranks])
    names = list(dict.fromkeys(hosts[rank] for rank in ranks if rank in hosts))
    if not names:
        return f"{word} {numbers}"
    return f"{word} {numbers} on {names[0]}" if len(names) == 1 else f"{word} {numbers} ({_shorten(names)})"


def _shorten(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def describe_failures(failures: Mapping[int, str], hosts: Mapping[int, str], world_size: int) -> str:
    """What went wrong on some ranks as one line; the same sentence of several ranks once.

    Args:
        failures: rank to its sentence, at least one.
        hosts: rank to host.
        world_size: processes of the run.
    """
    ranks: dict[str, list[int]] = {}
    for rank, sentence in sorted(failures.items()):
        ranks.setdefault(" ".join(sentence.split()), []).append(rank)
    if len(ranks) == 1 and len(failures) == world_size:
        return f"{next(iter(ranks))} (on all {world_size} ranks)" if world_size > 1 else next(iter(ranks))
    said = [f"{name_ranks(group, hosts)}: {sentence}" for sentence, group in ranks.items()]
    more = f" | and {len(said) - 4} other failures" if len(said) > 4 else ""
    return " | ".join(said[:4]) + more
