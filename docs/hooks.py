"""MkDocs hooks: the page of all options, made from the code when the documentation is built.

MkDocs calls the functions ``on_…``. Their pages are not stored among the sources.
"""

from __future__ import annotations

import io
import os
import re
import types
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from jsonargparse import set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from yolo_lightning.cli import main as cli
from yolo_lightning.cli.launcher import YoloCLI, launch

OPTIONS_PAGE = "options.md"
_ROLE = re.compile(r":\w+:`~?([^`<]+)`")
_OWN_DEFAULT = re.compile(r"\s*Default: ``[^`]*``\.?")
_BEFORE = """# Every option

This page is made from the code. Give an option as `--name value`, or as nested keys in a YAML file. Later
files and options override earlier ones. `validate`, `test` and `predict` take the options of `fit`, without
those of training alone. `yolo-lightning fit --print_config` prints all options with their values.

Some options of Lightning are refused or replaced:

| instead of | set |
|---|---|
| `--trainer.accumulate_grad_batches` | `--model.optimizer.nominal_batch_size`, images a step |
| `--trainer.gradient_clip_val` | `--model.optimizer.gradient_clip_norm` |
| `--trainer.default_root_dir` | `--runs_dir` and `--run_name` |
| `--trainer.barebones` | nothing: it leaves out checkpoints and metrics |
"""

_OURS_INSTEAD = {
    "--ckpt_path": "A checkpoint; ``last`` or ``best`` of the newest run of that ``--run_name``; ``auto``: "
    "resume that run if it has a checkpoint, else start it.",
    "--weights_only": "Always true: a checkpoint is data, not a program.",
}
"""Help that replaces Lightning's, which describes another behaviour."""


class Option(NamedTuple):
    """One option of a command."""

    name: str
    """Name with its dashes."""
    kind: str
    """Type in words."""
    default: str
    help: str


class _Found(Exception):
    """Carrier of the parsers out of the command line, raised before it parses anything."""

    def __init__(self, parsers: dict[str, LightningArgumentParser]) -> None:
        super().__init__()
        self.parsers = parsers


class _Parsers(YoloCLI):
    """Command line that stops before it parses its arguments."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        raise _Found(self._subcommand_parsers)


def subcommand_parsers() -> dict[str, LightningArgumentParser]:
    """Return the parsers of ``fit``, ``validate``, ``test`` and ``predict``."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    try:
        launch(_Parsers, ["--help"])
    except _Found as found:
        return found.parsers
    raise AssertionError("the command line did not ask for its arguments")


def command_names() -> list[str]:
    """Return our own commands."""
    return [*cli.COMMANDS]


def help_of(command: str) -> str:
    """Return the output of ``yolo-lightning COMMAND --help``.

    Raises:
        ValueError: there is no such command.
    """
    printed = io.StringIO()
    try:
        with redirect_stdout(printed), redirect_stderr(io.StringIO()), _columns(100):
            cli.run([command, "--help"])
    except SystemExit as exit_:
        if exit_.code:
            raise ValueError(f"yolo-lightning {command} --help ends with status {exit_.code}") from None
    return printed.getvalue()


@contextmanager
def _columns(count: int) -> Iterator[None]:
    """Set the width of help texts."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(count)
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def options_of(parser: LightningArgumentParser) -> Iterator[Option]:
    """Yield the options of a parser in its order, without those that print help or read a file."""
    for action in parser._actions:
        names, hint = action.option_strings, getattr(action, "_typehint", None)
        if hint is None or not names or names[0].endswith(".help"):
            continue
        text = _OURS_INSTEAD.get(names[0], action.help if isinstance(action.help, str) else "")
        yield Option(names[0], describe_type(hint), describe_value(action.default), _plain(text))


def describe_type(hint: Any) -> str:
    """Describe a type in words: ``auto, none or disk``, ``int or null``, ``list of str``."""
    if hint is type(None):
        return "null"
    origin = get_origin(hint)
    if origin is Literal:
        return _either([describe_value(value) for value in get_args(hint)])
    if origin is Union or isinstance(hint, types.UnionType):
        return _either(list(dict.fromkeys(word for part in get_args(hint) for word in _words(part))))
    if hint is bool:
        return "true or false"
    arguments = [describe_type(part) for part in get_args(hint) if part is not Ellipsis]
    name = getattr(origin or hint, "__name__", str(hint)).lower()
    return f"{name} of {' to '.join(arguments)}" if arguments else getattr(hint, "__name__", str(hint))


def _words(hint: Any) -> list[str]:
    """Describe a part of a union; each literal is one word."""
    is_literal = get_origin(hint) is Literal
    return [describe_value(value) for value in get_args(hint)] if is_literal else [describe_type(hint)]


def describe_value(value: Any) -> str:
    """Write a value as in YAML."""
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _plain(text: str) -> str:
    """Convert a docstring to one line of Markdown."""
    text = _ROLE.sub(lambda match: f"`{match[1].rsplit('.', 1)[-1]}`", _OWN_DEFAULT.sub("", text))
    return _cell(" ".join(text.replace("``", "`").split()))


def _cell(text: str) -> str:
    """Escape text for a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def table(options: list[Option]) -> str:
    """Write options as a table."""
    rows = [f"| `{o.name}` | {_cell(o.kind)} | {_code(o.default)} | {o.help} |" for o in options]
    return "\n".join(["| option | type | default | meaning |", "|---|---|---|---|", *rows])


def _code(value: str) -> str:
    return f"`{value}`" if value else ""


def group_of(name: str) -> str:
    """Return the group of an option: ``model.loss`` for ``--model.loss.box_gain``, "" for ``--patience``."""
    return name.removeprefix("--").rpartition(".")[0]


def options_page() -> str:
    """Write the page of all options, as Markdown."""
    groups: dict[str, list[Option]] = {}
    parsers = subcommand_parsers()
    of_fit = list(options_of(parsers["fit"]))
    for option in of_fit:
        groups.setdefault(group_of(option.name), []).append(option)
    parts = [_BEFORE]
    # Lightning's own come last: they are many, and the same as everywhere.
    for group in sorted(groups, key=lambda name: (name.startswith("trainer"), name)):
        parts.append(f"## {'The run' if not group else f'`--{group}.*`'}\n\n{table(groups[group])}\n")
    known = {option.name for option in of_fit}
    for name, parser in parsers.items():
        if own := [option for option in options_of(parser) if option.name not in known]:
            parts.append(f"## The command {name}\n\nBeside the options above:\n\n{table(own)}\n")
    for name in command_names():
        parts.append(f"## The command {name}\n\n```text\n{help_of(name).rstrip()}\n```\n")
    return "\n".join(parts)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page of all options."""
    files.append(File.generated(config, OPTIONS_PAGE, content=options_page()))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Remove Sphinx roles such as ``:meth:`` before names in docstrings."""
    return re.sub(r":(?:class|data|func|meth|mod):(?=<code>)", "", html)
