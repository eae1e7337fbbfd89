"""The pages build, ask nothing of other servers, and agree with the code."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
import yaml

from yolo_lightning.__main__ import main
from yolo_lightning.cli import migrate_options
from yolo_lightning.cli.main import COMMANDS
from yolo_lightning.model.blocks import MODEL_FILES
from yolo_lightning.runs.directory import read_metrics

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
TOP = [REPOSITORY / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES = [*(page for page in TOP if page.exists()), *sorted(DOCS.glob("*.md")), *NOTEBOOKS]

OTHERS: dict[str, Any] = yaml.safe_load((REPOSITORY / "tests/support/options_of_others.yaml").read_text())
"""Options of yolov5 and ultralytics, and options of ours that the pages may name before they exist."""
PAGES_OF_OTHERS = [
    (name, heading) for name in ("yolov5", "ultralytics") for heading in OTHERS[name]["options"]
]

OURS = re.compile(
    r"(?<![/\w])yolo-lightning\b(?!/)|-m yolo_lightning\b|"
    r"(launch_torchrun|submit_slurm|run_quickstart)\.sh\b|"
    r"^(fit|validate|test|predict|migrate|convert|doctor|submit|synth|visualize|report|compare)\b|^--"
)
"""Part of a command line before our own options."""
OF_OTHERS = {"--build-arg", "--gpus", "--ipc", "--network", "--overlap", "--shm-size", "--sysctl"}
"""Options of docker and of benchmarks.scaling that stand alone in a text."""
OPTION = re.compile(r"(?<![\w-])--[A-Za-z][\w.-]*")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_hooks"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def known_options(hooks: ModuleType) -> set[str]:
    """Every option of every command."""
    parsers = hooks.subcommand_parsers().values()
    known = {name for parser in parsers for action in parser._actions for name in action.option_strings}
    helps = [hooks.help_of(command) for command in hooks.command_names()]
    return known | {name.rstrip(".") for text in helps for name in OPTION.findall(text)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return folder


def text_of(page: Path) -> str:
    """Text of a page, or of the Markdown cells of a notebook."""
    if page.suffix != ".ipynb":
        return page.read_text()
    cells = nbformat.read(page, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


# The built pages


class _Requests(HTMLParser):
    """Addresses that a browser requests when it opens a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.found += [given[name] for name in ("src", "srcset", "poster", "data") if name in given]
        self.found += re.findall(r"url\(([^)]*)\)", given.get("style", ""))
        if tag == "link" and given.get("rel") != "canonical":
            self.found.append(given.get("href", ""))


def test_no_page_asks_another_server_for_anything(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 12
    for page in pages:
        requests = _Requests()
        requests.feed(page.read_text())
        assert requests.found
        outside = [address for address in requests.found if re.match(r"\s*['\"]?(\w+:)?//", address)]
        assert not outside, f"{page.name} asks for {outside}"
    for sheet in site.rglob("*.css"):
        addresses = re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")]+)", sheet.read_text())
        assert not [address for address in addresses if re.match(r"(https?:)?//", address)], sheet.name


def test_the_page_of_options_has_all_of_them(site: Path, hooks: ModuleType) -> None:
    page = unescape((site / "options.html").read_text())
    options = list(hooks.options_of(hooks.subcommand_parsers()["fit"]))
    assert len(options) > 100
    for option in options:
        assert f"<code>{option.name}</code>" in page, option.name
    by_name = {option.name: option for option in options}
    assert by_name["--data.cache"].kind == "auto, none, disk, ram or device"
    assert by_name["--model.optimizer.learning_rate"].default == "0.01"
    assert all(option.help for option in options if not option.name.startswith("--trainer.")), options


def test_the_page_of_options_has_each_command(site: Path, hooks: ModuleType) -> None:
    page = unescape((site / "options.html").read_text())
    assert set(COMMANDS) == set(hooks.command_names())
    for command in COMMANDS:
        assert f"usage: yolo-lightning {command}" in page


def test_the_figures_of_the_readme_are_those_of_the_benchmarks(site: Path) -> None:
    def figures(text: str) -> set[str]:
        return set(re.findall(r"\d+\.\d+x|\b0\.\d{3}\b", text))

    readme = (REPOSITORY / "README.md").read_text()
    known = figures((DOCS / "benchmarks.md").read_text())
    assert len(known) > 20 and known <= figures((site / "benchmarks.html").read_text())
    told = figures(readme[readme.index("## Measured") :])
    assert len(told) > 4 and not told - known
    assert not figures((DOCS / "index.md").read_text()), "a figure is repeated on the first page"
    assert (site / "images" / "throughput.png").is_file()


# Text


def named_options(text: str) -> Iterator[str]:
    """Find our options in shell commands and between backticks."""
    spans = []
    for language, block in FENCE.findall(text):
        if language in {"bash", "sh", "shell", "console", ""}:
            spans += re.sub(r"\\\n\s*", " ", block).splitlines()
    spans += re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    for span in spans:
        command = re.split(r"\s#|^#", span.strip())[0]
        if (start := OURS.search(command)) and not re.search(r"python\S* -m (?!yolo_lightning)", command):
            yield from (name.rstrip(".") for name in OPTION.findall(command[start.start() :]))


def without_first_column(text: str) -> str:
    """Keep the code blocks, and the tables without their first column."""
    rows = [line for line in FENCE.sub("", text).splitlines() if line.startswith("|")]
    ours = [block for _, block in FENCE.findall(text)]
    return "\n".join([row.split("|", 2)[2] for row in rows] + [f"```bash\n{block}```" for block in ours])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_is_named_exists(page: Path, known_options: set[str]) -> None:
    text = text_of(page)
    if page.name.startswith("from-"):
        text = without_first_column(text)
    wrong = {name for name in named_options(text) if name not in known_options | OF_OTHERS}
    assert not wrong, f"{page.name} names {sorted(wrong)}"


def test_every_option_in_the_heads_of_configs_exists(known_options: set[str]) -> None:
    files = sorted((REPOSITORY / "configs").rglob("*.yaml"))
    assert files
    for file in files:
        comments = [line.lstrip("# ") for line in file.read_text().splitlines() if line.startswith("#")]
        commands = "\n".join(comments)
        wrong = set(named_options(f"```bash\n{commands}\n```")) - known_options
        assert not wrong, f"{file} names {sorted(wrong)}"


def source_exists(name: str) -> bool:
    """Look up a path such as ``yolo_lightning/runs/``, or a dotted name."""
    if "/" in name:
        return (REPOSITORY / name).exists()
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute) or bool(importlib.util.find_spec(name))
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_module_that_is_named_exists(page: Path) -> None:
    text = page.read_text() if page.suffix != ".ipynb" else code_of(page)
    text = re.sub(r"\| before \| now \|.*?\n\n", replaced_names, text, flags=re.DOTALL)
    names = re.findall(r"\byolo_lightning(?:[./]\w+)+(?:\.py\b)?", text)
    for module, imported in re.findall(r"from (yolo_lightning[\w.]*) import ([\w, ]+|\([^)]*\))", text):
        names += [f"{module}.{name}" for name in re.findall(r"\w+", imported)]
    wrong = [name for name in names if not source_exists(name)]
    assert not wrong, f"{page.name} names {wrong}"


def replaced_names(table: re.Match[str]) -> str:
    """Keep the second column of the changelog's table of moves; the first holds removed names."""
    return "\n".join(row.split("|")[2] for row in table[0].strip().splitlines())


def code_of(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "code")


def anchors_of(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles]
    return {re.sub(r"[-\s]+", "-", title) for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path, hooks: ModuleType) -> None:
    for link in LINK.findall(FENCE.sub("", text_of(page))):
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        target = page if not path else (page.parent / path)
        if target.name == hooks.OPTIONS_PAGE and target.parent == DOCS:
            continue
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors_of(target), f"{page.name} links to {link}"


def table_below(page: Path, heading: str) -> dict[str, str]:
    """Map each code in the first column of the first table below a heading to its second column."""
    text = page.read_text()
    section = re.split(r"^## ", text[text.index(f"## {heading}\n") + 3 :], flags=re.MULTILINE)[0]
    rows = [re.split(r"(?<!\\)\|", line) for line in section.splitlines() if line.startswith("|")][2:]
    return {name: row[2].strip() for row in rows for name in re.findall(r"`([^`]+)`", row[1])}


@pytest.mark.parametrize(("other", "heading"), PAGES_OF_OTHERS)
def test_each_option_of_others_has_its_row(other: str, heading: str) -> None:
    names, rows = OTHERS[other]["options"][heading], table_below(DOCS / f"from-{other}.md", heading)
    assert len(names) > 20
    assert set(names) == rows.keys()
    for name, ours in rows.items():
        reasons = ("no equivalent: ", "not needed", "not offered", "always", "the command", "detection")
        assert "`" in ours or ours.startswith(reasons), f"{name}: {ours}"


def test_the_keys_of_ultralytics_are_those_of_the_installed_one() -> None:
    installed = yaml.safe_load((MODEL_FILES.parents[1] / "default.yaml").read_text())
    new = installed.keys() - OTHERS["ultralytics"]["options"]["model.train()"]
    assert not new, f"write rows of docs/from-ultralytics.md and of cli/migrate_options.py for {sorted(new)}"


@pytest.mark.parametrize(
    ("other", "heading", "options"),
    [
        ("yolov5", "train.py", migrate_options.TRAIN),
        ("yolov5", "hyp.yaml", migrate_options.HYP),
        ("ultralytics", "model.train()", migrate_options.ULTRALYTICS),
    ],
)
def test_the_tables_say_what_migrate_does(other: str, heading: str, options: migrate_options.Table) -> None:
    rows = table_below(DOCS / f"from-{other}.md", heading)
    cells = {name.removeprefix("--").replace("-", "_"): ours for name, ours in rows.items()}
    assert options.keys() <= cells.keys()
    for name, entry in options.items():
        key = entry if isinstance(entry, str) else entry[0]
        assert not key or re.search(rf"`--{re.escape(key)}\b", cells[name]), f"{name}: {cells[name]}"


def test_only_services_and_other_tasks_have_no_equivalent() -> None:
    lines = [line for page in DOCS.glob("from-*.md") for line in page.read_text().splitlines()]
    missing = [line for line in lines if "no equivalent" in line]
    reasons = re.compile(r"account|other tasks|segmentation|classification|poses|tracking")
    assert missing and not [line for line in missing if not reasons.search(line)]


def test_the_examples_of_the_readme_run(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the number and size of the images, the epochs and the compilation are changed."""
    blocks = FENCE.findall((REPOSITORY / "README.md").read_text())
    code = "".join(block for language, block in blocks if language == "python")
    for long, short in {
        'make_dataset("datasets/shapes")': f"__import__('pathlib').Path('{shapes}')",
        "data__image_size=160": "data__image_size=64, data__num_workers=0, model__compile=False",
        "score_threshold=0.4": "score_threshold=0.001",
        'root="datasets/shapes"': f"root='{shapes}', batch_size=4, num_workers=0",
        "image_size=160)\nmodule": "image_size=64)\nmodule",
        'architecture="yolov5n"': 'architecture="yolov5n", compile=False',
        "epochs=20, data": "epochs=1, data",
        "max_epochs=20": 'max_epochs=1, accelerator="cpu", devices=1, logger=False',
    }.items():
        assert long in code, long
        code = code.replace(long, short)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    for run in (tmp_path / "runs" / "mine", tmp_path / "runs" / "fit" / "version_0"):
        (row,) = read_metrics(run / "metrics.csv")
        assert "val/map" in row
    assert str(next((shapes / "images" / "val").iterdir()).parent) in capsys.readouterr().out


# Metrics


@pytest.fixture(scope="module")
def documented() -> list[re.Pattern[str]]:
    rows = [line.split("|")[1] for line in (DOCS / "metrics.md").read_text().splitlines() if line[:1] == "|"]
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    return [re.compile(re.sub(r"<\w+>", ".+", name)) for name in names]


def test_everything_that_a_fit_logs_is_explained(
    shapes: Path, tmp_path: Path, documented: list[re.Pattern[str]]
) -> None:
    options = "--data.image_size=64 --data.batch_size=4 --data.num_workers=0 --data.cache=none"
    options += " --model.compile=false --model.channels_last=false --trainer.precision=32-true"
    options += " --trainer.accelerator=cpu --trainer.devices=1 --trainer.max_epochs=1"
    main(["fit", *options.split(), f"--data.root={shapes}", f"--runs_dir={tmp_path}"])
    (row,) = read_metrics(tmp_path / "fit" / "version_0" / "metrics.csv")
    assert {"train/box_loss", "val/map", "perf/images_per_second", "lr/weight"} <= row.keys()
    unknown = [name for name in row if not any(pattern.fullmatch(name) for pattern in documented)]
    assert not unknown, f"docs/metrics.md does not explain {unknown}"


def test_every_tag_in_the_code_is_explained(documented: list[re.Pattern[str]]) -> None:
    """Includes the tags that only a GPU or another head logs."""
    tag = re.compile(r"""["'`]((?:train|val|perf|gpu|lr)/\w+)["'`]""")
    sources = [file.read_text() for file in sorted((REPOSITORY / "yolo_lightning").rglob("*.py"))]
    tags = {name for source in sources for name in tag.findall(source)}
    assert "perf/device_idle_fraction" in tags
    unknown = [name for name in sorted(tags) if not any(pattern.fullmatch(name) for pattern in documented)]
    assert not unknown, f"docs/metrics.md does not explain {unknown}"
