"""Memory or disk space that runs out in a run: one sentence with the figures and the options that help."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..data.image_size import as_option, as_size, describe
from ..distributed.ddp import is_on_gpu
from ..errors import InputError
from ..runs.checkpoint_files import full_disk_error
from ..system.out_of_memory import describe_out_of_memory
from ..system.signals import training_has_begun


@contextmanager
def explaining_exhaustion(config: Any, run_directory: Path) -> Iterator[None]:
    """Turn errors that mean "out of memory" or "the disk is full" into wrong input.

    Args:
        config: the options of ``fit``, ``validate``, ``test`` or ``predict``.
        run_directory: place of files whose names an error does not tell.

    Raises:
        InputError: says how much there is, and what to do, the most effective first.
    """
    hook = threading.excepthook

    def hide_full_disk(args: threading.ExceptHookArgs) -> None:
        if full_disk_error(args.exc_value) is None:  # TensorBoard's thread; the next log call raises it again
            hook(args)

    threading.excepthook = hide_full_disk
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        resume = "resume with --ckpt_path last" if training_has_begun() else "start again"
        if full := full_disk_error(error):
            where = full.filename or run_directory
            raise InputError(f"{where}: {full.strerror}; make room and {resume}") from error
        if (found := describe_out_of_memory(error)) is None:
            raise
        size = f"batches of {config.data.batch_size} images of {describe(as_size(config.data.image_size))}"
        raise InputError(f"{found}, with {size}; give {_remedies(config)}, and {resume}") from error
    finally:
        threading.excepthook = hook


def _remedies(config: Any) -> str:
    """List the options that need less memory than those of a run, the most effective first."""
    data, is_gpu = config.data, is_on_gpu(config.trainer.accelerator)
    remedies = [f"--data.batch_size {data.batch_size // 2}"] if data.batch_size > 1 else []
    if is_gpu and str(config.trainer.precision) in ("None", "32", "32-true", "64-true"):
        remedies.append("--trainer.precision bf16-mixed")
    height, width = as_size(data.image_size)
    if min(height, width) > 64:
        smaller = as_option((height * 3 // 4 // 64 * 64, width * 3 // 4 // 64 * 64))  # 64: also for P6
        remedies.append(f"--data.image_size {smaller}")
    if data.cache not in ("none", "disk"):
        remedies.append("--data.cache disk")
    if not is_gpu and data.num_workers != 0:
        remedies.append("fewer --data.num_workers")
    return ", ".join(remedies) or "a smaller --model.architecture"
