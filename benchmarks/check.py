"""The check of a large data set with planted faults and near-duplicates: what it finds, and its cost.

``python -m benchmarks.check --output FOLDER`` makes 100,000 small JPEGs as a YOLO data set in a new folder,
checks it twice as a user would, and writes ``benchmarks/results/check.json``. The folder can be removed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yolo_lightning.system.environment import package_version

from .results import describe_machine, git_commit

WIDTH, HEIGHT = 160, 120
EACH = 100  # near-duplicates, and 20 of each fault
FAULTS: dict[str, tuple[str, Callable[[bytes], bytes] | None, str]] = {
    "truncated": ("truncated image", lambda data: data[: len(data) // 2], ""),
    "empty": ("empty image", lambda data: b"", ""),
    "no image": ("unreadable image", lambda data: b"not an image" * 50, ""),
    "png": ("wrong suffix", lambda data: _encode(_decode(data), ".png"), ""),
    "four numbers": ("wrong count of numbers", None, "0 0.5 0.5 0.2"),
    "text": ("no numbers", None, "disc 0.5 0.5 0.2 0.2"),
    "class": ("unknown class", None, "9 0.5 0.5 0.2 0.2"),
    "px": ("not in 0..1", None, "0 80 60 20 20"),
    "negative": ("negative size", None, "0 0.5 0.5 -0.2 0.2"),
    "outside": ("box without area", None, "0 1.05 0.5 0.02 0.2"),
    "repeated": ("repeated label", None, "0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2"),
    "tiny": ("tiny box", None, "0 0.5 0.5 0.002 0.2"),
}
"""Kind of the finding, what is done to the JPEG, and the label file."""
CHANGES: tuple[Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]], ...] = (
    lambda image: image,  # encoded again
    lambda image: cv2.resize(image, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA),
    lambda image: cv2.convertScaleAbs(image, beta=8),
    lambda image: image[2:-2, 3:-3],  # about 2 % of each side
    lambda image: image[2:, 3:],
)


def _encode(image: np.ndarray[Any, Any], suffix: str = ".jpg", quality: int = 85) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else []
    return cv2.imencode(suffix, image, options)[1].tobytes()


def _decode(data: bytes) -> np.ndarray[Any, Any]:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def picture(number: int) -> np.ndarray[Any, Any]:
    """Picture of a number: a soft ground with sharp shapes."""
    rng = np.random.default_rng(number)
    ground = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    image = cv2.resize(ground, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    for x, y, side, *ink in rng.integers(0, 256, (5, 6)).tolist():
        corner = x % WIDTH, y % HEIGHT
        cv2.rectangle(image, corner, (corner[0] + 5 + side % 30, corner[1] + 5 + side % 20), ink, -1)
    return image


def place(root: Path, number: int, count: int) -> tuple[Path, Path]:
    """Image and label file; one tenth is in val."""
    split = "val" if number >= count * 9 // 10 else "train"
    name = f"{number:06d}"
    return root / "images" / split / f"{name}.jpg", root / "labels" / split / f"{name}.txt"


def write_part(root: Path, numbers: range, count: int) -> None:
    for number in numbers:
        image, label = place(root, number, count)
        image.write_bytes(_encode(picture(number)))
        label.write_text(f"{number % 3} 0.5 0.5 0.2 0.3\n")


def make(root: Path, count: int, processes: int) -> dict[str, Counter[str]]:
    """Write the data set; the kinds of the findings that it must give, with the names of the images."""
    for kind in ("images", "labels"):
        for split in ("train", "val"):
            (root / kind / split).mkdir(parents=True)
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [a, b, c]\n")
    step = -(-count // processes)
    with get_context("fork").Pool(processes) as pool:
        pool.starmap(
            write_part, [(root, range(n, min(n + step, count)), count) for n in range(0, count, step)]
        )
    expected: dict[str, Counter[str]] = {}
    chosen = np.random.default_rng(0).permutation(count).tolist()

    def note(kind: str, image: Path) -> None:
        expected.setdefault(kind, Counter())[image.name] += 1

    for kind, spoil, text in FAULTS.values():
        for _ in range(EACH // 5):
            image, label = place(root, chosen.pop(), count)
            if spoil:
                image.write_bytes(spoil(image.read_bytes()))
            else:
                label.write_text(text + "\n")
            note(kind, image)
    for n in range(EACH + EACH // 5):
        a, b = sorted((chosen.pop(), chosen.pop()))
        (first, _), (second, _) = place(root, a, count), place(root, b, count)
        is_copy = n >= EACH
        changed = CHANGES[n % len(CHANGES)](picture(a))
        second.write_bytes(
            first.read_bytes() if is_copy else _encode(np.ascontiguousarray(changed), quality=70)
        )
        splits = first.parent.name, second.parent.name
        within = "same image twice" if is_copy else "near-duplicate images"
        across = f"{'same image' if is_copy else 'near-duplicate'} in {splits[0]} and {splits[1]}"
        note(within if splits[0] == splits[1] else across, second)
    return expected


def check(root: Path) -> tuple[dict[str, float], dict[str, Counter[str]]]:
    """Seconds of wall and processor of one check, and what it has found."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, "-m", "yolo_lightning", "check", "--data.root", str(root), "--json"]
    result = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - begun
    found: dict[str, Counter[str]] = {}
    for finding in json.loads(result.stdout)["findings"]:
        found.setdefault(finding["kind"], Counter())[Path(finding["image"]).name] += 1
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_seconds": round(seconds, 1), "processor_seconds": round(processor, 1)}, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    expected = make(options.output, options.images, options.processes)
    first, found = check(options.output)
    second, again = check(options.output)
    missed = {kind: sorted(names - found.get(kind, Counter())) for kind, names in expected.items()}
    invented = {kind: sorted(names - expected.get(kind, Counter())) for kind, names in found.items()}
    result = {
        "images": options.images,
        "planted": {kind: names.total() for kind, names in sorted(expected.items())},
        "found": {kind: names.total() for kind, names in sorted(found.items())},
        "missed": {kind: names for kind, names in missed.items() if names},
        "invented": {kind: names for kind, names in invented.items() if names},
        "first": first,
        "second": second,
        "second_finds_the_same": again == found,
        "load_average": os.getloadavg(),
        "machine": describe_machine(2),
        "versions": {name: package_version(name) for name in ("numpy", "opencv-python-headless", "pillow")},
        "commit": git_commit(),
    }
    text = json.dumps(result, indent=1)
    (Path(__file__).parent / "results/check.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
