import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.report_run import NASTY, environment, evaluation, make_run, write
from yolo_lightning.errors import InputError
from yolo_lightning.monitoring.report import budget, machine, next_steps, outcome
from yolo_lightning.monitoring.report import evaluation as evaluation_section
from yolo_lightning.monitoring.report.html import duration, number
from yolo_lightning.monitoring.report.page import page, write_report
from yolo_lightning.monitoring.report.read import read_run


class Reading(HTMLParser):
    """Elements with their attributes, the text of each cell, and whether all that opens is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "h2":
            self.headings.append(data)
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data


ALL = [
    "What came out", "Curves", "Precision, recall and confusion", "Pictures", "Time budget", "GPU health",
    "Hardware and versions", "Go on from here",
]  # fmt: skip


def test_a_whole_run_has_all_sections_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    path = write_report(make_run(tmp_path / "fit" / "version_0"))
    assert path == tmp_path / "fit" / "version_0" / "report.html"
    text = path.read_text(encoding="utf-8")
    reading = Reading(text)
    assert reading.headings == ALL
    names = [name for name, _ in reading.elements]
    assert "script" not in names and "iframe" not in names
    for _, attributes in reading.elements:
        for key in ("src", "href"):
            assert (attributes.get(key) or "#").startswith(("#", "data:"))
    assert "url(" not in text and "@import" not in text
    assert names.count("img") == 2
    assert not list(path.parent.glob(".report*"))


def test_a_run_of_metrics_alone_has_what_they_tell(tmp_path: Path) -> None:
    reading = Reading(page(read_run(make_run(tmp_path / "fit" / "version_0", whole=False))))
    assert reading.headings == ["What came out", "Curves", "Go on from here"]
    classes = [row for row in reading.rows if row[0] in ("cat", "dog")]
    assert classes == [["cat", "0.200"], ["dog", "0.400"]]


def test_what_users_name_is_text(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "<b>" / "version_0", classes=(NASTY, "dog"), data__root=NASTY)
    nasty = {"gpus": [NASTY], "packages": {NASTY: NASTY}, "command": [NASTY], "precision": NASTY}
    write(directory / "environment.json", nasty)
    write(directory / "gpu_health.json", {NASTY: NASTY, "devices": [{NASTY: {NASTY: [NASTY]}}]})
    write(directory / "time_budget.json", {"wall_seconds": 1.0, "seconds": {NASTY: 1.0}, "processes": 1})
    text = page(read_run(directory))
    reading = Reading(text)
    assert not any("onerror" in attributes for _, attributes in reading.elements)
    assert not any(name == "b" for name, _ in reading.elements)
    assert any(row[0] == NASTY for row in reading.rows)


def test_a_class_has_its_figures_at_the_best_f1(tmp_path: Path) -> None:
    text = outcome.section(read_run(make_run(tmp_path / "run"))).body
    rows = Reading(text).rows
    assert ["class", "AP 50–95", "AP 50", "precision", "recall", "F1"] in rows
    assert ["dog", "0.400", "0.610", "0.710", "0.720", "0.730"] in rows
    assert ["mAP 50–95", "0.400", "0.300"] in rows
    assert ["small objects", "–", "–"] in rows  # COCO's -1


def test_the_budget_adds_up_to_the_last_digit(tmp_path: Path) -> None:
    section = budget.section(read_run(make_run(tmp_path / "run")))
    *rows, foot = Reading(section.body).rows[1:]
    tenths = [round(10 * float(row[1])) for row in rows]
    assert sum(tenths) == round(10 * float(foot[1])) == 300
    assert [row[0] for row in rows][:2] == ["Start-up", "Compilation"]
    assert str(section.lead).startswith("67%")
    widths = [float(w) for w in re.findall(r"flex-grow:([0-9.]+)", section.body)]
    assert sum(widths) == pytest.approx(1, abs=1e-3)


def test_shares_are_rounded_so_that_they_add_up() -> None:
    assert budget.add_up([0.4, 0.4, 0.4]) == [1, 0, 0]
    assert budget.add_up([1.0, 2.0]) == [1, 2]
    assert budget.add_up([]) == []
    values = [0.49, 3.26, 7.77, 0.5, 12.31]
    rounded = budget.add_up(values)
    assert sum(rounded) == round(sum(values))
    assert all(abs(r - v) < 1 for r, v in zip(rounded, values, strict=True))


@pytest.mark.parametrize(
    "content", [{}, {"wall_seconds": "x", "seconds": {}}, {"wall_seconds": 0, "seconds": {"step": 1}}]
)
def test_a_budget_that_is_none_is_left_out(tmp_path: Path, content: dict[str, object]) -> None:
    directory = make_run(tmp_path / "run")
    write(directory / "time_budget.json", content)
    assert budget.section(read_run(directory)).body == ""


def test_the_confusion_matrix_says_who_is_taken_for_whom(tmp_path: Path) -> None:
    section = evaluation_section.section(read_run(make_run(tmp_path / "run")))
    rows = [row for row in Reading(section.body).rows if len(row) == 4]
    assert rows[0] == ["", "cat", "dog", "background"]
    assert rows[1:] == [["cat", "1", "", ""], ["dog", "", "2", ""], ["background", "7", "", ""]]
    assert "cat, taken for background: 7 of 8" in section.body
    assert section.lead == "Of the validation after epoch 2."


def test_many_classes_are_folded_away_and_their_confusions_listed(tmp_path: Path) -> None:
    names = tuple(f"class {i}" for i in range(40))
    directory = make_run(tmp_path / "run", scores=[0.02, 0.04], classes=names)
    shown, folded = outcome.section(read_run(directory)).body.split("<details>")
    assert [row[0] for row in Reading(shown).rows if row[0] in names] == [*names[:10]]  # the lowest, first
    assert "All 40 classes" in folded and folded.count("<tr>") > 40
    body = evaluation_section.section(read_run(directory)).body
    assert "matrix" not in re.findall(r'table class="(\w+)"', body)
    assert ["class 0", "background", "7"] in Reading(body).rows
    assert body.count("line mean") == 4  # the mean of each chart, over faint ones


@pytest.mark.parametrize(
    "change", [{"confusion": [[1]]}, {"f1": None}, {"recall": [[1]]}, {"class_names": 3}]
)
def test_a_strange_evaluation_costs_its_section_alone(tmp_path: Path, change: dict[str, object]) -> None:
    directory = make_run(tmp_path / "run")
    write(directory / "evaluation.json", evaluation(("cat", "dog")) | change)
    reading = Reading(page(read_run(directory)))
    assert reading.headings == ALL
    assert "is not as it should be" in page(read_run(directory))


def test_a_class_without_objects_has_no_curve(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run")
    found = evaluation(("cat", "dog"))
    found["pr_precision"] = [[1.0, 0.9, 0.8, 0.7, 0.0], [None] * 5]
    write(directory / "evaluation.json", found)
    body = evaluation_section.section(read_run(directory)).body
    assert body.split("<figure>")[1].count("<polyline") == 1


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
    assert f"·  {told}  ·" in outcome.described(read_run(directory))


def test_the_commands_are_of_this_run_and_quoted(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "my runs" / "fit" / "version_0")
    commands = dict(next_steps.commands(read_run(directory)))
    best, last = (f"'{directory}/checkpoints/{name}.ckpt'" for name in ("best", "last"))
    assert commands["Resume where it stopped"] == f"yolo-lightning fit --ckpt_path {last}"
    assert commands["Validate"] == f"yolo-lightning validate --ckpt_path {best}"
    predict = f"yolo-lightning predict --ckpt_path {best} --data.predict_source PHOTOS"
    assert predict in commands.values()
    assert f"yolo-lightning report '{directory}'" in commands.values()


def test_a_finished_run_is_trained_longer_and_one_without_weights_is_not_resumed(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run", trainer__max_epochs=3)
    text = " ".join(command for _, command in next_steps.commands(read_run(directory)))
    assert "--trainer.max_epochs 6" in text
    for path in (directory / "checkpoints").iterdir():
        path.unlink()
    assert "--ckpt_path" not in " ".join(c for _, c in next_steps.commands(read_run(directory)))


def test_the_health_of_gpus_is_a_table_with_units(tmp_path: Path) -> None:
    section = machine.health(read_run(make_run(tmp_path / "run")))
    rows = Reading(section.body).rows
    assert rows[0] == ["", "GPU 3"]
    assert ["power, W", "512.3 (80 to 1,688)"] in rows
    assert ["lost is upper bound", "no"] in rows
    assert not any(row[0].startswith("throttled") for row in rows)  # nothing to tell
    assert "GPU 3: clocks lowered by heat" in section.body.split("<table")[0]


def test_names_that_are_no_unicode_are_written(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "run")
    (directory / "environment.json").write_text(json.dumps({"precision": "\ud800"}))
    assert "batch 16  ·  ?" in write_report(directory).read_text(encoding="utf-8")


def test_without_metrics_there_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metrics\.csv: is missing"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_figures_are_written_for_people() -> None:
    assert [duration(s) for s in (8.24, 200, 3900, None)] == ["8.2 s", "3 min 20 s", "1 h 05 min", "–"]
    assert number(0.12345) == "0.123"
    assert {number(v) for v in (-1, None, float("nan"), True, "x")} == {"–"}
