"""Gradients of several batches summed into one optimizer step, across epochs and across resumes."""

from __future__ import annotations

from typing import Any

from torch import nn


class GradientAccumulator:
    """Counts the batches whose gradients wait in ``.grad``, and saves and restores them.

    A window of batches that an epoch's end cuts is not dropped and not applied early, with too few
    images in it: it goes on in the next epoch, or in the run that resumes.

    With several ranks ``.grad`` holds the sum over all of them: gradients are reduced in every backward
    pass, although DDP's ``no_sync`` could put that off, so that the checkpoint which one rank writes in
    the middle of a window is complete.
    """

    def __init__(self) -> None:
        self.pending = 0
        """Batches summed since the last optimizer step."""
        self._restored: dict[str, Any] = {}

    def window_is_full(self, accumulate: int) -> bool:
        """Count one more batch, whose gradients were just added; whether it is time to step."""
        self.pending += 1
        return self.pending >= accumulate

    def stepped(self) -> None:
        """The optimizer has used the gradients and they are gone."""
        self.pending = 0

    def state_dict(self, network: nn.Module, batch_size: int) -> dict[str, Any]:
        """The images that wait, and their gradients (none right after a step); what saves them copies them.

        Args:
            network: whose gradients wait.
            batch_size: images of a batch of all ranks together.
        """
        gradients = {}
        if self.pending:
            gradients = {
                name: parameter.grad
                for name, parameter in network.named_parameters()
                if parameter.grad is not None
            }
        return {"images": self.pending * batch_size, "gradients": gradients}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember what a checkpoint holds until :meth:`restore_gradients`."""
        self._restored = state

    def restore_gradients(self, network: nn.Module, batch_size: int) -> None:
        """Give the remembered gradients back to the parameters, once those are on their device.

        Args:
            network: whose gradients wait.
            batch_size: images of a batch of all ranks together, which may be another one now.
        """
        if not self._restored:
            return
        images = self._restored.get("images", self._restored.get("pending", 0) * batch_size)
        self.pending = -(-images // batch_size)
        gradients = self._restored["gradients"]
        for name, parameter in network.named_parameters():
            if name in gradients:
                parameter.grad = gradients[name].to(parameter)
        self._restored = {}
