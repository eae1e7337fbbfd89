"""Checkpoint files: written whole or not at all, checked when read, and written beside the training."""

from .background import BackgroundWriter
from .damage import fault, newest_whole, previous_path
from .files import NoSpace, full_disk_error, write

__all__ = [
    "BackgroundWriter",
    "NoSpace",
    "fault",
    "full_disk_error",
    "newest_whole",
    "previous_path",
    "write",
]
