"""Findings: what a reader has found wrong in a data set, each with its place and the remedy."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One thing that is wrong in a data set; as a text, one sentence."""

    kind: str  # what findings are grouped by, such as "label out of the image"
    where: str  # file, and the line, key or annotation in it
    what: str
    remedy: str
    image: str = ""  # absolute path of the image that it concerns, if it is one image
    is_error: bool = False  # the image cannot be used as it is; its whole image is left out

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.remedy}"

    @classmethod
    def from_error(cls, kind: str, error: Exception, image: str = "", is_error: bool = True) -> Finding:
        """The finding that the message of an ``InputError``, "where: what; remedy", describes."""
        where, _, rest = str(error).partition(": ")
        what, _, remedy = rest.rpartition("; ")
        return cls(kind, where, what, remedy, image, is_error)
