"""Linters and schemas of other projects."""

from __future__ import annotations

import sys
from pathlib import Path

from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema.validators import validator_for


def tool(name: str) -> str:
    """Path of a program that pip has installed."""
    return str(Path(sys.executable).with_name(name))


def schema_errors(name: str, document: object) -> list[str]:
    """Errors that a schema of check-jsonschema finds in a document."""
    schema = get_builtin_schema(f"vendor.{name}")
    return [error.message for error in validator_for(schema)(schema).iter_errors(document)]
