"""Makes the data set that all trainers read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..options import parser
from ..pictures import Wanted, make_pictures

FOLDER = "pictures"


def data_of(work: Path) -> Path:
    """Where the data set lies.

    Raises:
        FileNotFoundError: it has not been made.
    """
    root = work / FOLDER
    if not root.exists():
        raise FileNotFoundError(f"{root}: there are no pictures; the part 'pictures' makes them")
    return root


def measure(arguments: list[str]) -> dict[str, Any]:
    """Make it and say what it is like."""
    options = parser()
    options.add_argument("--images", type=int, required=True)
    options.add_argument("--mean-bytes", type=int, required=True)
    given = options.parse_args(arguments)
    wanted = Wanted(given.images, given.size if given.size > 64 else 96, given.mean_bytes)
    root = make_pictures(given.work / FOLDER, wanted)
    sizes = [path.stat().st_size for path in (root / "images" / "train").iterdir()]
    labels = [len(path.read_text().splitlines()) for path in (root / "labels" / "train").glob("*.txt")]
    return {
        "images": len(sizes),
        "long_side_px": wanted.long_side,
        "mean_bytes": round(sum(sizes) / len(sizes)),
        "mean_labels": sum(labels) / len(labels),
        "most_labels": max(labels),
    }
