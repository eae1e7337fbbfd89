"""The first exchange between the processes of a run."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from ..preflight.allreduce import check_all_reduce
from ..preflight.rendezvous import Rendezvous


class FirstAllReduce(Callback):
    """Ends the run when a small all-reduce does not return in time, and says which rank is missing.

    Args:
        meeting: Where the ranks have met; closed here, because the process group is there now.
        timeout_s: For all to come, and again for the sum, in s.
    """

    def __init__(self, meeting: Rendezvous, timeout_s: float) -> None:
        self.meeting = meeting
        self.timeout_s = timeout_s

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        check_all_reduce(trainer.strategy.root_device, self.timeout_s, self.meeting)
        self.meeting.close()
