import copy
import json
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.html_page import HtmlPage
from tests.support.report_run import NASTY, environment, evaluation, make_run, write
from yolo_lightning.errors import InputError
from yolo_lightning.monitoring.report import sections
from yolo_lightning.monitoring.report.compare import as_text, compare_runs
from yolo_lightning.monitoring.report.page import report_page, write_report
from yolo_lightning.monitoring.report.read import read_run
from yolo_lightning.runs.directory import read_metrics
from yolo_lightning.runs.record import metrics_as_csv

ALL = [
    "Results", "Curves", "Precision, recall and confusion", "Pictures", "Time budget", "GPU health",
    "Hardware and versions", "Next steps",
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all files, and its report."""
    path = write_report(make_run(tmp_path_factory.mktemp("runs") / "fit" / "version_0"))
    assert path.name == "report.html" and not list(path.parent.glob(".report*"))
    return path.parent


@pytest.fixture(scope="module")
def text(whole: Path) -> str:
    return (whole / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> HtmlPage:
    return HtmlPage(text)


def read_page(directory: Path) -> HtmlPage:
    return HtmlPage(report_page(read_run(directory)))


def test_a_whole_run_has_all_sections_and_nothing_from_elsewhere(page: HtmlPage, text: str) -> None:
    assert page.headings == ALL
    names = [name for name, _ in page.elements]
    assert "script" not in names and "iframe" not in names
    for _, attributes in page.elements:
        for key in ("src", "href"):
            assert (attributes.get(key) or "#").startswith(("#", "data:"))
    assert "url(" not in text and "@import" not in text
    assert len(page.images) == 9  # four curves, three plots of the evaluation, two pictures
    for svg in page.drawings.values():
        assert "http" not in re.sub(r"http://www\.w3\.org/(2000/svg|1999/xlink)", "", svg)


def test_a_run_of_metrics_alone_has_what_they_tell(tmp_path: Path) -> None:
    page = read_page(make_run(tmp_path / "fit" / "version_0", whole=False))
    assert page.headings == ["Results", "Curves", "Next steps"]
    classes = [row for row in page.rows("outcome") if row[0] in ("cat", "dog")]
    assert classes == [["cat", "0.200"], ["dog", "0.400"]]


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", NASTY])
def test_what_users_name_is_text(name: str, tmp_path: Path) -> None:
    directory = make_run(tmp_path / "<b>" / "version_0", classes=(name, "dog"), data__root=name)
    nasty = {"gpus": [name], "packages": {name: name}, "command": [name], "precision": name}
    write(directory / "environment.json", nasty)
    write(directory / "gpu_health.json", {name: name, "devices": [{name: {name: [name]}, "faults": [name]}]})
    write(directory / "time_budget.json", {"wall_seconds": 1.0, "seconds": {name: 1.0}, "processes": 1})
    page = read_page(directory)
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert not {"b", "script"} & {element for element, _ in page.elements}
    assert name in [row[0] for row in page.rows("outcome")]
    assert any(name[:10] in text for text in page.texts_of("Precision against recall"))


IN_ATTRIBUTES = '"onload=alert(1) x="'
IN_TAGS = "</style></svg><script>alert(1)</script>"


@pytest.mark.parametrize("name", [IN_ATTRIBUTES, IN_TAGS, "<script>", "]]><!--", "$\\frac{$", "_$x^{$"])
def test_a_name_is_text_in_every_place(name: str, page: HtmlPage, tmp_path: Path) -> None:
    """Also in attributes, and in the texts of SVG, where Matplotlib would take dollars for a formula."""
    directory = make_run(tmp_path / name.replace("/", "-") / "v", classes=(name, "dog"), data__root=name)
    other_names = {"lr/weight": f"lr/{name}", "train/box_loss": f"train/{name}_loss"}
    table = [
        {other_names.get(key, key): value for key, value in row.items()}
        for row in read_metrics(directory / "metrics.csv")
    ]
    (directory / "metrics.csv").write_text(metrics_as_csv(table))
    nasty = {"gpus": [name], "packages": {name: name}, "command": [name], "precision": name, "started": name}
    write(directory / "environment.json", nasty)
    write(directory / "gpu_health.json", {"devices": [{name: {name: name}, "faults": [name], "index": name}]})
    write(directory / "time_budget.json", {"wall_seconds": 2.0, "seconds": {name: 1.0, "step": 1.0}})
    sound, page = page, read_page(directory)
    assert {name for name, _ in page.elements} <= {name for name, _ in sound.elements} | {"br"}
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    plain = {tag for svg in sound.drawings.values() for tag in re.findall(r"<(\w+)", svg)}
    for svg in page.drawings.values():
        for element in ET.fromstring(svg).iter():
            assert element.tag.rpartition("}")[2] in plain
            assert not any(key.startswith("on") for key in element.attrib)
    assert "Learning rate at the end of the epoch" in page.drawings


def test_a_page_has_only_images_of_the_run_itself(tmp_path: Path) -> None:
    directory, secret = make_run(tmp_path / "run"), tmp_path / "secret.png"
    secret.write_bytes((directory / "pictures" / "labels.png").read_bytes() + b"secret")
    (directory / "pictures" / "worst.jpg").write_text("root:x:0:0:root:/root:/bin/bash")
    (directory / "pictures" / "labels.png").unlink()
    (directory / "pictures" / "labels.png").symlink_to(secret)
    text = report_page(read_run(directory))
    assert "image/png" not in text and "image/jpeg" not in text
    assert "Skipped, because they cannot be read: pictures/worst.jpg, pictures/labels.png." in text
    (directory / "pictures").rename(tmp_path / "elsewhere")
    (directory / "pictures").symlink_to(tmp_path / "elsewhere")
    assert "image/" not in report_page(read_run(directory)).replace("image/svg+xml", "")


def test_files_behind_links_are_not_on_the_page(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run")
    names = ["evaluation.json", "environment.json", "config.yaml", "gpu_health.json", "time_budget.json"]
    for name in names:
        (directory / name).rename(tmp_path / name)
        (directory / name).symlink_to(tmp_path / name)
    page = read_page(directory)
    assert page.headings == ["Results", "Curves", "Pictures", "Next steps"]
    assert f"cannot be read: {', '.join(names)}." in page.text


BAD = ("x", 1e999, float("nan"), -1, 0, 1e-300, 1e300, None, [], {}, True, 10**400, [None], {"a": None})


@pytest.mark.parametrize("name", ["environment.json", "gpu_health.json", "time_budget.json", "config.yaml"])
def test_no_value_of_another_type_ends_the_page(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each value of the file in turn is replaced by each bad one; the file may be left out, no more."""
    for plots in ("training_curves", "evaluation_plots"):  # not of these files, and slow
        monkeypatch.setattr(f"yolo_lightning.monitoring.report.page.{plots}", lambda run: [])
    directory = make_run(tmp_path / "run")
    content = yaml.safe_load((directory / name).read_text())
    tried = 0
    for path in places(content):
        for bad in BAD:
            changed = copy.deepcopy({"": content})
            inner: Any = changed
            for key in ("", *path)[:-1]:
                inner = inner[key]
            inner[("", *path)[-1]] = bad
            write = yaml.safe_dump if name.endswith("yaml") else json.dumps
            (directory / name).write_text(write(changed[""]))
            run = read_run(directory)
            assert run.unreadable in ([], [name])
            report_page(run)
            as_text(compare_runs([run, run]))
            tried += 1
    assert tried > 80


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Path of each value in nested ones; of a list, only the first item's."""
    yield path
    items = (
        value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    )
    for key, inner in items:
        yield from places(inner, (*path, key))


@pytest.mark.parametrize("value", ["-1", "0", "3e38", "1.7e308", "1e-300", "9" * 400, "nan"])
def test_no_number_ends_the_page(value: str, tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run", whole=False)
    head, first, *others = (directory / "metrics.csv").read_text().splitlines()
    numbers = first.split(",")
    first = ",".join([*numbers[:2], *[value] * len(numbers[2:])])
    (directory / "metrics.csv").write_text("\n".join([head, first, *others]) + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # Matplotlib's
        assert "Curves" in read_page(directory).headings


def test_a_class_has_its_figures_at_the_best_f1(page: HtmlPage) -> None:
    rows = page.rows("outcome")
    assert ["class", "AP 50-95", "AP 50", "precision", "recall", "F1"] in rows
    assert ["dog", "0.400", "0.610", "0.710", "0.720", "0.730"] in rows
    assert ["mAP 50-95", "0.400", "0.300"] in rows
    assert ["mAP small", "-", "-"] in rows  # COCO's -1


def test_the_curves_of_a_run(page: HtmlPage) -> None:
    titles = [
        "Mean average precision",
        "Box loss",
        "Learning rate at the end of the epoch",
        "Images per second",
    ]
    assert list(page.drawings)[:4] == titles
    assert {"mAP 50-95", "mAP 50", "epoch", "best: 2"} <= set(page.texts_of("Mean average precision"))
    assert {"training", "validation"} <= set(page.texts_of("Box loss"))


def test_the_budget_adds_up_to_the_last_digit(page: HtmlPage, text: str) -> None:
    *rows, foot = page.rows("time")[1:]
    tenths = [round(10 * float(row[1])) for row in rows]
    assert sum(tenths) == round(10 * float(foot[1])) == 300
    assert [row[0] for row in rows][:2] == ["Start-up", "Compilation"]
    assert "67% of 30.0 s was spent on training steps." in text
    widths = [float(w) for w in re.findall(r"flex-grow:([0-9.]+)", text)]
    assert sum(widths) == pytest.approx(1, abs=1e-3)


def test_shares_are_rounded_so_that_they_add_up() -> None:
    values = [0.04, 0.04, 0.04, 0.049, 0.326, 0.777, 0.05, 1.231]
    seconds = dict(zip("abcdefgh", values, strict=True))
    shown = [phase.shown_s for phase in sections.phases({"wall_seconds": 9.0, "seconds": seconds})]
    assert sum(shown) == pytest.approx(round(sum(values), 1))
    assert all(abs(s - v) < 0.1 and round(s, 1) == s for s, v in zip(shown, values, strict=True))
    assert sections.phases({}) == []


def test_the_confusion_matrix_says_what_is_taken_for_what(page: HtmlPage) -> None:
    texts = page.texts_of("Confusion matrix")
    assert {"cat  8", "dog  2", "background  0"} <= set(texts)  # the true classes, and how many
    assert {"cat", "dog", "background", "0.88", "0.12", "7"} <= set(texts)  # 7 of 8 cats were missed
    assert "The validation after epoch 2." in page.text


def test_many_classes_are_folded_away_and_their_confusions_listed(tmp_path: Path) -> None:
    names = tuple(f"class {i}" for i in range(40))
    directory = make_run(tmp_path / "run", scores=[0.02, 0.04], classes=names)
    found = evaluation(names)
    found["confusion"][3][2] = 5.0
    write(directory / "evaluation.json", found)
    text = report_page(read_run(directory))
    page = HtmlPage(text)
    assert [row[0] for row in page.rows("outcome") if row[0] in names][:11] == [*names[:10], names[0]]
    assert "<summary>All 40 classes</summary>" in text
    assert any(t.startswith("0.62 (5)  class 2 as class 3") for t in page.texts_of("Confusion matrix"))
    legend = page.texts_of("Precision against recall")
    assert sum(text.startswith("class ") for text in legend) == 8 and "all classes 0.610" in legend


def test_a_strange_evaluation_costs_its_section_alone(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run")
    write(directory / "evaluation.json", evaluation(("cat", "dog")) | {"recall": [[1]]})
    page = read_page(directory)
    assert page.headings == [heading for heading in ALL if heading != ALL[2]]
    assert "Skipped, because they cannot be read: evaluation.json." in page.text


def test_a_class_without_objects_has_no_curve(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run")
    found = evaluation(("cat", "dog"))
    nothing = {key: [found[key][0], [None] * 5] for key in ("pr_precision", "f1", "precision", "recall")}
    write(directory / "evaluation.json", found | nothing | {"ap_50": [0.61, None]})
    page = read_page(directory)
    assert "cat 0.610" in page.texts_of("Precision against recall")
    assert not any("dog" in text for text in page.texts_of("Precision against recall"))
    assert ["dog", "0.400", "-", "-", "-", "-"] in page.rows("outcome")


@pytest.mark.parametrize(
    ("gpus", "world_size", "accelerator", "told"),
    [
        (["H100"] * 8, 8, "auto", "8 × H100"),
        (["H100"] * 8, 16, "gpu", "16 × H100"),
        (["H100"] * 8, 1, "auto", "H100"),
        (["H100"] * 8, 1, "cpu", "8 CPU cores"),
        ([], 2, "auto", "8 CPU cores"),
    ],
)
def test_the_hardware_is_what_was_used_of_it(
    gpus: list[str], world_size: int, accelerator: str, told: str, tmp_path: Path
) -> None:
    directory = make_run(tmp_path / "run", trainer__accelerator=accelerator)
    write(directory / "environment.json", environment() | {"gpus": gpus, "world_size": world_size})
    assert f"·  {told}  ·" in sections.described(read_run(directory))


def test_the_commands_are_of_this_run_and_quoted(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "my runs" / "fit" / "version_0")
    commands = dict(sections.commands(read_run(directory)))
    best, last = (f"'{directory}/checkpoints/{name}.ckpt'" for name in ("best", "last"))
    assert commands["Resume where it stopped"] == f"yolo-lightning fit --ckpt_path {last}"
    assert commands["Validate"] == f"yolo-lightning validate --ckpt_path {best}"
    predict = f"yolo-lightning predict --ckpt_path {best} --data.predict_source PHOTOS"
    assert predict in commands.values()
    assert f"yolo-lightning report '{directory}'" in commands.values()


def test_a_run_with_a_deadline_has_planned_no_number_of_epochs(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", trainer__max_epochs=3, deadline="2h"))
    assert sections.epochs_text(run) == "3"
    assert "--deadline TIME" in " ".join(command for _, command in sections.commands(run))
    assert "--trainer.max_epochs" not in " ".join(command for _, command in sections.commands(run))


def test_a_finished_run_is_trained_longer_and_one_without_weights_is_not_resumed(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run", trainer__max_epochs=3)
    text = " ".join(command for _, command in sections.commands(read_run(directory)))
    assert "--trainer.max_epochs 6" in text
    for path in (directory / "checkpoints").iterdir():
        path.unlink()
    assert "--ckpt_path" not in " ".join(c for _, c in sections.commands(read_run(directory)))


def test_the_health_of_gpus_is_a_table_with_units(page: HtmlPage) -> None:
    rows = page.rows("health")
    assert rows[0] == ["", "GPU 3"]
    assert ["power, W", "512.3 (80 to 1,688)"] in rows
    assert ["lost is upper bound", "no"] in rows
    assert not any(row[0].startswith("throttled") for row in rows)  # nothing to tell
    assert "GPU 3: clocks lowered by heat" in page.text


def test_values_of_a_file_are_lines_of_text() -> None:
    assert sections.lines({"power_w": 1234.5, "is_on": True, "modes": ["a", "b"]}) == [
        "power, W: 1,234", "is on: yes", "modes: a, b",
    ]  # fmt: skip
    assert sections.lines([1, [2.5], None]) == ["1", "2.5"]


def test_names_that_are_no_unicode_are_written(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run")
    (directory / "environment.json").write_text(json.dumps({"precision": "\ud800"}))
    (directory / "evaluation.json").unlink()
    assert "batch 16  ·  ?" in write_report(directory).read_text(encoding="utf-8")


def test_without_metrics_there_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metrics\.csv: is missing"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
