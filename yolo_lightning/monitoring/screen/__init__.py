"""Output of a run: bars on a terminal and in a notebook, whole lines everywhere."""

from .bars import Bar, Display
from .opening import open_display

__all__ = ["Bar", "Display", "open_display"]
