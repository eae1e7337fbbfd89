"""Reads a Dockerfile: its instructions, stage by stage, with variables put in."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Instruction:
    """One instruction, such as ``COPY`` and ``--from=wheel /wheels /tmp``; continued lines are joined."""

    keyword: str
    value: str

    @property
    def flags(self) -> dict[str, str]:
        """What begins with two hyphens, without them: ``{"from": "wheel"}``."""
        words = [word[2:].partition("=") for word in self.value.split() if word.startswith("--")]
        return {name: value for name, _, value in words}

    @property
    def words(self) -> list[str]:
        """The rest, of a JSON list or of words between spaces."""
        value = re.sub(r"^(--\S+\s+)*", "", self.value)
        return json.loads(value) if value.startswith("[") else shlex.split(value)


Stage = list[Instruction]
"""``FROM`` and what follows, up to the next."""


def read(path: Path) -> list[Instruction]:
    """All instructions of a file."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    text = re.sub(r"\\\n", "", "\n".join(lines))
    pairs = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    return [Instruction(keyword.upper(), value) for keyword, value in pairs]


def stages(instructions: list[Instruction]) -> tuple[dict[str, str], list[Stage]]:
    """The arguments before the first stage, with their defaults, and the stages."""
    arguments: dict[str, str] = {}
    found: list[Stage] = []
    for instruction in instructions:
        if instruction.keyword == "FROM":
            found.append([])
        if found:
            found[-1].append(instruction)
        else:
            assert instruction.keyword == "ARG", f"{instruction} before FROM"
            name, _, default = instruction.value.partition("=")
            arguments[name] = default
    return arguments, found


def expand(text: str, variables: dict[str, str]) -> str:
    """``$NAME`` and ``${NAME}`` replaced; an unknown one is an error."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: variables[match[1] or match[2]], text)
