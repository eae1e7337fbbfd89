"""Findings: what is wrong in a data set, each with its place and the remedy."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from ...errors import InputError

EVERY_IMAGE = "*"
"""``Finding.image`` of an error that leaves no image of the split usable."""
FEW = 20  # findings of one kind that a report lists


class Finding(NamedTuple):
    """One thing that is wrong in a data set; as a text, one sentence."""

    kind: str  # what findings are grouped by, such as "label out of the image"
    where: str  # file, and the line, key or annotation in it
    what: str
    remedy: str
    image: str = ""  # absolute path of the image that it concerns, if it is one image
    is_error: bool = False  # the image cannot be used as it is; its whole image is left out
    is_note: bool = False  # nothing has to be done
    beside: str = ""  # a second image that it concerns, such as the original of a copy

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.remedy}"

    @property
    def severity(self) -> Literal["error", "warning", "note"]:
        """How bad it is: only errors stop a training."""
        return "error" if self.is_error else "note" if self.is_note else "warning"

    @classmethod
    def from_error(cls, kind: str, error: Exception, image: str = "", is_error: bool = True) -> Finding:
        """The finding that the message of an ``InputError``, "where: what; remedy", describes."""
        where, _, rest = str(error).partition(": ")
        what, _, remedy = rest.rpartition("; ")
        return cls(kind, where, what, remedy, image, is_error)

    @classmethod
    def of_image(cls, path: str, error: Exception) -> Finding:
        """The finding that an ``InputError`` about an image file describes."""
        text = str(error).removeprefix(path)
        if "not a readable" in text and os.path.isfile(path) and not os.path.getsize(path):
            return cls("empty image", path, "the file is empty", "replace or remove it", path, is_error=True)
        kinds = {"truncated": "truncated image", " px but": "image of another size", " px": "large image"}
        kind = next((kind for part, kind in kinds.items() if part in text), "unreadable image")
        return cls.from_error(kind, error, path)


def by_kind(findings: Iterable[Finding]) -> dict[tuple[str, str], list[Finding]]:
    """Findings by severity and kind: errors, warnings, notes, and the most frequent kind first."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.kind), []).append(finding)
    order = ("error", "warning", "note")
    return dict(sorted(groups.items(), key=lambda item: (order.index(item[0][0]), -len(item[1]))))


def list_findings(findings: Iterable[Finding], most: int = FEW) -> list[str]:
    """Lines about findings, grouped by kind, at most ``most`` of each kind."""
    lines = []
    for (severity, kind), group in by_kind(findings).items():
        if len(group) == 1:
            lines.append(f"{severity}: {group[0]}")
            continue
        lines.append(f"{severity}: {len(group):,} of '{kind}':")
        lines += [f"  {finding}" for finding in group[:most]]
        if len(group) > most:
            lines.append(f"  ... and {len(group) - most:,} more")
    return lines


def refuse_errors(findings: Iterable[Finding]) -> None:
    """Stop if there are errors among some findings.

    Raises:
        InputError: There are; the message is that of the only one, or of one that concerns all images of a
            split, or counts them and has the first.
    """
    errors = [finding for finding in findings if finding.is_error]
    whole = [finding for finding in errors if finding.image == EVERY_IMAGE]
    if whole or len(errors) == 1:
        raise InputError(str([*whole, *errors][0]))
    if errors:
        kinds = Counter(finding.kind for finding in errors)
        counts = ", ".join(f"{count:,} of '{kind}'" for kind, count in kinds.most_common())
        raise InputError(
            f"{len(errors):,} errors ({counts}) in {count_images(errors):,} images, such as {errors[0]}; "
            "see all with yolo-lightning check, which also writes corrected labels (--fix OUT), or leave "
            "these images out with --data.on_error skip"
        )


def count_images(findings: Sequence[Finding]) -> int:
    """Number of single images that findings concern."""
    return len({finding.image for finding in findings} - {"", EVERY_IMAGE})
