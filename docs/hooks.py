"""What is taken from the code when the documentation is built: every option, and the figures of the README.

MkDocs calls the functions ``on_…``. Nothing that they make is kept among the sources.
"""

from __future__ import annotations

import io
import os
import re
import types
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from jsonargparse import set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from yolo_lightning.cli import main as cli
from yolo_lightning.cli.launcher import YoloCLI

REPOSITORY = Path(__file__).parents[1]
OPTIONS_PAGE = "options.md"
_FROM_README = re.compile(r"<!-- README: (.+?) -->")
_PICTURES = re.compile(r"\]\(((?:[\w-]+/)+([\w-]+\.(?:png|svg|jpg)))\)")
_ROLE = re.compile(r":\w+:`~?([^`<]+)`")
_OWN_DEFAULT = re.compile(r"\s*Default: ``[^`]*``\.?")
_BEFORE = """# Every option

Made from the code when these pages are built. An option is given as `--name value`, or in a YAML file as
nested keys; of several `--config FILE` and options, the later ones win. `validate`, `test` and `predict`
take the same ones as `fit`, but for those that only training knows. `yolo-lightning fit --print_config`
prints all of them with their values.

Some of Lightning's own are refused, or something stands in for them:

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
"""Lightning's text about these tells what the command line does not do."""


class Option(NamedTuple):
    """One option of a command."""

    name: str
    """With its dashes."""
    kind: str
    """Its type, in words."""
    default: str
    help: str


class _Found(Exception):
    """Carries the parsers out of the command line, before it parses anything."""

    def __init__(self, parsers: dict[str, LightningArgumentParser]) -> None:
        super().__init__()
        self.parsers = parsers


class _Parsers(YoloCLI):
    """The command line up to the point where it would parse its arguments."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        raise _Found(self._subcommand_parsers)


def subcommand_parsers() -> dict[str, LightningArgumentParser]:
    """The parsers of ``fit``, ``validate``, ``test`` and ``predict``."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    try:
        cli._launch(_Parsers, ["fit"])
    except _Found as found:
        return found.parsers
    raise AssertionError("the command line did not ask for its arguments")


def command_names() -> list[str]:
    """The commands that are not Lightning's, as the help of the program names them."""
    return re.findall(r"'(\w+)'", cli._DESCRIPTION)


def help_of(command: str) -> str:
    """What ``yolo-lightning COMMAND --help`` prints.

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
    """Let help be so wide."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(count)
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def options_of(parser: LightningArgumentParser) -> Iterator[Option]:
    """The options of a parser, in its order; those that only print help or read a file are left out."""
    for action in parser._actions:
        names, hint = action.option_strings, getattr(action, "_typehint", None)
        if hint is None or not names or names[0].endswith(".help"):
            continue
        text = _OURS_INSTEAD.get(names[0], action.help if isinstance(action.help, str) else "")
        yield Option(names[0], describe_type(hint), describe_value(action.default), _plain(text))


def describe_type(hint: Any) -> str:
    """A type as one would say it: ``auto, none or disk``, ``int or null``, ``list of str``."""
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
    """A part of a union; one of literals is as many words."""
    is_literal = get_origin(hint) is Literal
    return [describe_value(value) for value in get_args(hint)] if is_literal else [describe_type(hint)]


def describe_value(value: Any) -> str:
    """A value as YAML has it."""
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _plain(text: str) -> str:
    """A docstring's text as Markdown of one line."""
    text = _ROLE.sub(lambda match: f"`{match[1].rsplit('.', 1)[-1]}`", _OWN_DEFAULT.sub("", text))
    return _cell(" ".join(text.replace("``", "`").split()))


def _cell(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def table(options: list[Option]) -> str:
    """A table of options."""
    rows = [f"| `{o.name}` | {_cell(o.kind)} | {_code(o.default)} | {o.help} |" for o in options]
    return "\n".join(["| option | type | default | meaning |", "|---|---|---|---|", *rows])


def _code(value: str) -> str:
    return f"`{value}`" if value else ""


def group_of(name: str) -> str:
    """Where an option belongs: ``--model.loss.box_gain`` to ``model.loss``, ``--patience`` to nothing."""
    return name.removeprefix("--").rpartition(".")[0]


def options_page() -> str:
    """The whole page, as Markdown."""
    groups: dict[str, list[Option]] = {}
    for option in options_of(subcommand_parsers()["fit"]):
        groups.setdefault(group_of(option.name), []).append(option)
    parts = [_BEFORE]
    # Lightning's own come last: they are many, and the same as everywhere.
    for group in sorted(groups, key=lambda name: (name.startswith("trainer"), name)):
        parts.append(f"## {'The run' if not group else f'`--{group}.*`'}\n\n{table(groups[group])}\n")
    for name in command_names():
        parts.append(f"## The command {name}\n\n```text\n{help_of(name).rstrip()}\n```\n")
    return "\n".join(parts)


def readme_section(title: str) -> str:
    """The text below a heading of the README, up to the next of its level.

    Raises:
        ValueError: there is no such heading.
    """
    readme = (REPOSITORY / "README.md").read_text()
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"README.md has no section '{title}'; correct the page that asks for it")
    return found[1].strip()


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page of the options, and the pictures that the README's sections show."""
    files.append(File.generated(config, OPTIONS_PAGE, content=options_page()))
    pages = [Path(file.abs_src_path).read_text() for file in files.documentation_pages() if file.abs_src_path]
    for title in {title for page in pages for title in _FROM_README.findall(page)}:
        for path, name in _PICTURES.findall(readme_section(title)):
            files.append(File.generated(config, name, abs_src_path=str(REPOSITORY / path)))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Take the roles of Sphinx out of docstrings: ``:meth:`` before a name."""
    return re.sub(r":(?:class|data|func|meth|mod):(?=<code>)", "", html)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put sections of the README where a page asks for them: ``<!-- README: Measured -->``."""

    def section(match: re.Match[str]) -> str:
        text = _PICTURES.sub(r"](\2)", readme_section(match[1]))
        return re.sub(r"\]\(docs/", "](", text)

    return _FROM_README.sub(section, markdown)
