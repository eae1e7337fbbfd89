"""Reader for Dockerfiles: instructions by stage, and variables."""

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
        """Words that begin with two hyphens: ``{"from": "wheel"}``."""
        words = [word[2:].partition("=") for word in self.value.split() if word.startswith("--")]
        return {name: value for name, _, value in words}

    @property
    def words(self) -> list[str]:
        """Other words; the value may be a JSON list."""
        value = re.sub(r"^(--\S+\s+)*", "", self.value)
        return json.loads(value) if value.startswith("[") else shlex.split(value)


Stage = list[Instruction]
"""``FROM`` and the instructions up to the next ``FROM``."""


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
    """Replace ``$NAME`` and ``${NAME}``; an unknown name is an error."""
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: variables[match[1] or match[2]], text)
