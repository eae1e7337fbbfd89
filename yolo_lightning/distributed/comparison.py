"""Differences between the facts of ranks, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..system.text import one_line
from .failure import name_ranks

Values = Mapping[str, Mapping[str, str]]
"""Kind to name to value, as ``facts.Facts.values``."""


@dataclass(frozen=True)
class Rule:
    """Meaning of a difference of one kind."""

    remedy: str
    is_error: bool = True


RULES = {
    "package": Rule("install the same version on all hosts"),
    "build": Rule("install the same build of torch on all hosts"),
    "python": Rule("use the same Python on all hosts"),
    "patch": Rule("better use the same Python on all hosts", is_error=False),
    "commit": Rule("check out the same commit on all hosts"),
    "gpus": Rule("give each host as many GPUs, and look at CUDA_VISIBLE_DEVICES"),
    "gpu": Rule("every step waits for the slowest", is_error=False),
    "option": Rule("start all ranks with the same options"),
    "checkpoint": Rule("put --runs_dir on a file system that all hosts share"),
    "index": Rule("copy the same images and annotations to all hosts"),
}
"""Kind of fact to the meaning of a difference. A kind does not repeat what an earlier one reported."""

_MOST = 5
"""Differences that are listed."""
_LONGEST = 121
"""Characters of a value that are shown."""


def compare_facts(values: Mapping[int, Values], hosts: Mapping[int, str]) -> tuple[str, list[str]]:
    """Find where ranks differ from rank zero.

    Args:
        values: rank to its facts.
        hosts: rank to its host.

    Returns:
        What is wrong as one line (empty: nothing), and a sentence for each difference that only
        deserves a warning.
    """
    errors: list[str] = []
    warnings: list[str] = []
    told: set[tuple[str, int]] = set()
    for kind, rule in RULES.items():
        names = dict.fromkeys(name for found in values.values() for name in found.get(kind, {}))
        for name in names:
            own = values[0].get(kind, {}).get(name, "unknown")
            others: dict[str, list[int]] = {}
            for rank in sorted(values):
                value = values[rank].get(kind, {}).get(name, "unknown")
                if value != own and (name, rank) not in told:
                    others.setdefault(value, []).append(rank)
                    told.add((name, rank))
            if others:
                sentence = f"{_difference(name, own, others, hosts)}; {rule.remedy}"
                (errors if rule.is_error else warnings).append(sentence)
    more = f" | and {len(errors) - _MOST} other differences" if len(errors) > _MOST else ""
    return " | ".join(errors[:_MOST]) + more, warnings


def _difference(name: str, own: str, others: Mapping[str, list[int]], hosts: Mapping[int, str]) -> str:
    parts = [f"{one_line(value, _LONGEST)} on {name_ranks(ranks, hosts)}" for value, ranks in others.items()]
    return f"{name} is {one_line(own, _LONGEST)} on {name_ranks([0], hosts)} but {', '.join(parts)}"
