"""One real training step of the largest shape: whether it fits into the memory of a device."""

from __future__ import annotations

import gc

import torch

from ...system.out_of_memory import describe_out_of_memory
from .step import Job, run_step


def step_fits(job: Job, batch_size: int, device: torch.device) -> bool:
    """Run the steps that are planned for real; False if the memory of the device is used up.

    The random generators are left as they were, and the memory is given back.
    """
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.device(device):
            run_step(job, batch_size)
        return True
    except RuntimeError as error:
        if describe_out_of_memory(error) is None:
            raise
        return False
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
