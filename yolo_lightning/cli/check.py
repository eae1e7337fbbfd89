"""``yolo-lightning check``: finds what is wrong in a data set, before time is spent."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.annotations.findings import Finding, by_kind, list_findings
from ..data.annotations.index import DatasetIndex, refuse_other_classes
from ..data.annotations.source import SPLITS, Split
from ..data.annotations.summary import summarise
from ..data.check.fix import write_fixed
from ..data.check.splits import check_splits
from ..data.module import DetectionDataModule
from ..errors import InputError
from ..monitoring.report.check import check_page
from ..system.files import write_whole
from ..system.text import printable
from .command_parser import FitParser
from .convert import find_new_folder

_DESCRIPTION = """Find what is wrong in a data set: images, labels, duplicates within and across splits. Exit
status: 0 without errors (warnings do not count), 1 with errors, 2 for wrong options. A second check takes
what is known of unchanged files from the cache folder of the data set. The other options are those of fit."""


def run_check(argv: list[str]) -> None:
    """Check a data set, with the arguments of a command line.

    Raises:
        InputError: There is no data set, or a file cannot be written.
        SystemExit: With status 1 if there are errors; wrong options, or ``--help``.
    """
    parser = FitParser(prog="yolo-lightning check", description=_DESCRIPTION)
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write all findings as JSON")
    parser.add_argument("--html", metavar="FILE", help="write a page with pictures")
    parser.add_argument(
        "--fix", metavar="OUT",
        help="folder to make: a copy without what is wrong, as YOLO if the data set is, otherwise as COCO; "
        "the images are hard links where possible",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=float, default=600.0, metavar="N",
        help="stated cost of decoding a split (1 ms an image and 10 ms a megapixel, on each core), above "
        "which only a sample of it is decoded, evenly spread",
    )  # fmt: skip
    parser.add_class_arguments(DetectionDataModule, "data")
    options = parser.parse_args(argv)
    if not options.seconds > 0:
        raise InputError(f"--seconds {options.seconds} is no cost; give more than 0")
    data = DetectionDataModule(**options.data.as_dict())
    output = find_new_folder("--fix", options.fix, data.source.root) if options.fix else None
    indices, broken = find_all(data, options.seconds)
    found = {split: index.findings for split, index in indices.items()}
    findings = [*broken, *(finding for group in found.values() for finding in group)]
    name = str(data.source.root or next(iter(data.source.annotations.values())))
    if options.json != "-":
        _print(indices, broken)
    if options.json:
        text = json.dumps(as_json(name, indices, broken), indent=1)
        _write("--json", options.json, text) if options.json != "-" else print(text)
    if options.html:
        _write("--html", options.html, check_page(name, indices, findings, data.max_megapixels))
    if output:
        write_fixed(indices, output, broken)
        print(output, file=sys.stderr)
    sys.exit(1 if any(finding.is_error for finding in findings) else 0)


def find_all(data: DetectionDataModule, seconds: float) -> tuple[dict[Split, DatasetIndex], list[Finding]]:
    """The splits of a data set with all findings, and errors about those that cannot be read.

    Raises:
        InputError: There is no data set.
    """
    if not data.source.annotations:
        data.source.locate()
    indices: dict[Split, DatasetIndex] = {}
    broken: dict[str, Finding] = {}
    for split in SPLITS:
        try:
            indices[split] = data.indices.inspect(split)
        except InputError as error:
            is_absent = f"there is no {split} split" in str(error)
            if not (split == "test" and is_absent):
                kind = "missing split" if is_absent else "unreadable split"
                broken[str(error)] = Finding.from_error(kind, error)
    if "train" in indices and "val" in indices:
        try:
            refuse_other_classes(indices["train"], indices["val"])
        except InputError as error:
            broken[str(error)] = Finding.from_error("other classes", error)
    progress = _Progress(sum(map(len, indices.values())))
    found = check_splits(indices, data.canvas, seconds, data.cache != "none", progress)
    return {split: index.without(found[split]) for split, index in indices.items()}, list(broken.values())


def as_json(name: str, indices: Mapping[Split, DatasetIndex], broken: Sequence[Finding]) -> dict[str, Any]:
    """All findings as plain values."""
    findings: list[tuple[str, Finding]] = [("", finding) for finding in broken]
    findings += [(split, finding) for split, index in indices.items() for finding in index.findings]
    counts = Counter(finding.severity for _, finding in findings)
    kinds = by_kind(finding for _, finding in findings)
    return {
        "data": name,
        "splits": {
            split: {"images": len(index), "labels": len(index.boxes)} for split, index in indices.items()
        },
        "counts": {severity: counts[severity] for severity in ("error", "warning", "note")},
        "kinds": {kind: len(group) for (_, kind), group in kinds.items()},
        "findings": [
            {"split": split, "severity": finding.severity}
            | {key: value for key, value in finding._asdict().items() if not key.startswith("is_")}
            for split, finding in findings
        ],
    }


def _print(indices: Mapping[Split, DatasetIndex], broken: Sequence[Finding]) -> None:
    for line in list_findings(broken):
        print(printable(line))
    for split, index in indices.items():
        print(summarise(index, f"{split} ({index.layout}, {index.source})"))
    counts = as_json("", indices, broken)["counts"]
    print(", ".join(f"{count:,} {word}{'s' * (count != 1)}" for word, count in counts.items()))


def _write(option: str, file: str, text: str) -> None:
    path = Path(file).expanduser()
    try:
        write_whole(path, text)
    except OSError as error:
        raise InputError(f"{option} {file}: cannot be written ({error.strerror})") from None
    print(path, file=sys.stderr)


class _Progress:
    """A line that counts images, on a terminal only."""

    def __init__(self, total: int) -> None:
        self.done, self.total = 0, total

    def __call__(self, count: int) -> None:
        self.done += count
        if sys.stderr.isatty():
            end = "\n" if self.done >= self.total else ""
            print(f"\rchecked {self.done:,} of {self.total:,} images", end=end, file=sys.stderr, flush=True)
