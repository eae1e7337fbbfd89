"""Filter that hides some of Lightning's messages."""

from __future__ import annotations

import logging
import warnings


def quieten() -> None:
    """Hide messages of Lightning that are advertising, or wrong for how this package uses it."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).addFilter(
            lambda record: not str(record.msg).startswith(("💡", "TPU available", "Seed set"))
        )
    for message in (
        ".*smaller than the logging interval.*",  # nothing is logged by the step
        ".*isinstance.treespec, LeafSpec.*",
        ".*does not have many workers.*",  # workers follow the cores
        ".*checkpoint directory .* exists and is not empty.*",  # a run that resumes
        ".*callbacks used to create the checkpoint need to be provided.*",  # evaluation needs none of fit's
        ".*sync_dist=True.*",  # what is logged is the same on all ranks, or is reduced already
    ):
        warnings.filterwarnings("ignore", message=message)
