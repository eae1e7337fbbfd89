"""The locked versions: all that pyproject.toml asks for, within its bounds, with hashes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def asked(extra: str) -> list[Requirement]:
    """What the package and one of its extras require, those that an extra takes over from others included."""
    waiting = [Requirement(text) for text in PROJECT["optional-dependencies"][extra]]
    found = [Requirement(text) for text in PROJECT["dependencies"]]
    while waiting:
        requirement = waiting.pop()
        if requirement.name != PROJECT["name"]:
            found.append(requirement)
        for more in requirement.extras if requirement.name == PROJECT["name"] else ():
            waiting += [Requirement(text) for text in PROJECT["optional-dependencies"][more]]
    return found


def locked(file: str) -> dict[str, list[str]]:
    """Versions of each package, several if they differ by Python or machine; every one has a hash."""
    versions: dict[str, list[str]] = {}
    for entry in re.split(r"\n(?=[a-z])", (ROOT / "requirements" / file).read_text())[1:]:
        requirement = Requirement(entry.split("\\\n")[0].strip())
        [pin] = requirement.specifier
        assert pin.operator == "==" and "--hash=sha256:" in entry and requirement.url is None
        versions.setdefault(canonicalize_name(requirement.name), []).append(pin.version)
    return versions


@pytest.mark.parametrize(
    ("file", "extra", "of_base"),
    [("dev.txt", "dev", set()), ("image.txt", "notebook", {"torch", "torchvision"})],
)
def test_what_is_asked_for_is_locked_within_its_bounds(file: str, extra: str, of_base: set[str]) -> None:
    versions = locked(file)
    requirements = [requirement for requirement in asked(extra) if requirement.name not in of_base]
    assert len(requirements) > 15 and not of_base & versions.keys()
    for requirement in requirements:
        found = versions.get(canonicalize_name(requirement.name), [])
        assert found and all(map(requirement.specifier.contains, found)), (
            f"{file} has {found or 'nothing'} for {requirement}; run scripts/lock.sh"
        )
