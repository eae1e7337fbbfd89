"""The pictures of a run, within the page."""

from __future__ import annotations

import base64
from pathlib import Path

from .html import Section, card
from .markup import Markup, tag
from .read import Run

_TITLES = {
    "augmented": ("What the network sees", "Training images after augmentation, with their boxes."),
    "predictions": ("Predictions beside the truth", "Validation images."),
    "worst": ("Worst errors", "What was found where nothing is, and what was missed."),
    "labels": ("The labels", "How many of each class, how large, and where."),
}
"""By name of the file, in the order of the page."""
_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}


def section(run: Run) -> Section:
    """Each picture of ``pictures/`` with what it shows; empty without one."""
    order = list(_TITLES)
    found = sorted(run.pictures, key=lambda p: order.index(p.stem) if p.stem in order else len(order))
    cards = []
    for path in found:
        title, note = _TITLES.get(path.stem, (path.stem, ""))
        cards.append(card(title, tag("img", src=_inline(path), alt=title), note or None))
    return Section("pictures", "Pictures", tag("div", cards, class_="pictures") if cards else Markup())


def _inline(path: Path) -> str:
    """A picture as part of the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f"data:{_TYPES[path.suffix]};base64,{data}"
