"""The wait for the first batch of a run: announced, and timed."""

from __future__ import annotations

from lightning.pytorch import LightningModule


class FirstBatch:
    """Says before the first batch that something is compiled in it, and afterwards how long it took.

    Args:
        module: whose ``compilation`` tells what is compiled; one without it compiles nothing.
    """

    def __init__(self, module: LightningModule | None = None) -> None:
        compilation = getattr(module, "compilation", None)
        self._announcement: str | None = getattr(compilation, "announcement", None)
        self._began_s: float | None = None

    def begin(self, now: float) -> str | None:
        """A batch begins; the line to print, if it is the first one and compiles."""
        line, self._announcement = self._announcement, None
        self._began_s = now if line else None
        return line

    def end(self, now: float) -> str | None:
        """A batch is over; the line to print, if it was the first one and compiled."""
        began_s, self._began_s = self._began_s, None
        if began_s is None:
            return None
        return f"the first batch took {now - began_s:.1f} s, compilation included"
