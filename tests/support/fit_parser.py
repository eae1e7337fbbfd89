"""The parser of ``fit``, for tests of its options."""

from typing import Any

import pytest
from jsonargparse import set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser

from yolo_lightning.cli.launcher import YoloCLI, launch


@pytest.fixture(scope="module")
def fit_parser() -> LightningArgumentParser:
    """The parser of ``fit``, which takes a second to build."""
    found: list[LightningArgumentParser] = []

    class Parsers(YoloCLI):
        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
            found.append(self._subcommand_parsers["fit"])
            raise SystemExit

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    with pytest.raises(SystemExit):
        launch(Parsers, ["fit"])
    return found[0]
