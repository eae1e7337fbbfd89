"""What other programs find in our files."""

from __future__ import annotations

import sys
from pathlib import Path

from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema.validators import validator_for


def tool(name: str) -> str:
    """A program that pip has put beside Python."""
    return str(Path(sys.executable).with_name(name))


def schema_errors(name: str, document: object) -> list[str]:
    """What a schema of those that check-jsonschema ships finds."""
    schema = get_builtin_schema(f"vendor.{name}")
    return [error.message for error in validator_for(schema)(schema).iter_errors(document)]
