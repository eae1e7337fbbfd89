import json
import re
from pathlib import Path

import pytest

from tests.support.html_page import HtmlPage
from tests.support.report_run import NASTY, environment, evaluation, make_run, write
from yolo_lightning.errors import InputError
from yolo_lightning.monitoring.report import sections
from yolo_lightning.monitoring.report.page import report_page, write_report
from yolo_lightning.monitoring.report.read import read_run

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
    shown = [phase.shown_s for phase in sections.phases({"seconds": seconds})]
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
