from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluation.test_bootstrap import detector, evaluated
from tests.support.html_page import HtmlPage
from tests.support.report_run import NASTY, make_run
from yolo_lightning.cli.report import run_compare
from yolo_lightning.errors import InputError
from yolo_lightning.evaluation.image_matches import MATCHES, ImageMatches
from yolo_lightning.monitoring.report.compare import compare_runs, differences
from yolo_lightning.monitoring.report.read import read_run
from yolo_lightning.monitoring.report.verdicts import flatten, short_names


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs; the second has another learning rate and is better, but slower by its clock."""
    first = make_run(tmp_path / "runs" / "a" / "version_0", [0.1, 0.4, 0.3])
    second = make_run(tmp_path / "runs" / "b" / "version_0", [0.2, 0.5], model__optimizer__learning_rate=0.02)
    return first, second


def test_options_are_flat_dotted_names() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": {}}, "e": [1, {"f": 2}]}) == {
        "a.b.c": 1, "a.d": {}, "e": [1, {"f": 2}],
    }  # fmt: skip


def test_only_what_differs_is_told() -> None:
    first: dict[str, Any] = {"same": 1, "other": 1, "gone": None}
    second: dict[str, Any] = {"same": 1, "other": 1.5, "new": [1, "é"]}
    assert differences([first, second]) == [
        ("other", ["1", "1.5"]),
        ("gone", ["null", "-"]),
        ("new", ["-", '[1, "é"]']),
    ]


def test_runs_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    directories = [tmp_path / x / "fit" / "version_0" for x in ("one", "two")]
    runs = [read_run(make_run(directory, whole=False)) for directory in directories]
    assert short_names(runs) == ["one/fit/version_0", "two/fit/version_0"]
    assert short_names(runs[:1]) == ["fit/version_0"]
    assert short_names([replace(runs[0], directory=Path("/"))]) == ["/"]


def test_differences_of_two_runs(two: tuple[Path, Path]) -> None:
    found = compare_runs([read_run(run) for run in two])
    assert found.names == ["a/version_0", "b/version_0"]
    # Name and place of a run differ always, and say nothing.
    assert found.options == [("model.optimizer.learning_rate", ["0.01", "0.02"])]
    assert found.machine == []
    lines = {line.name: line for line in found.metrics}
    assert lines["mAP 50-95"].texts == ["0.400", "0.500"] and lines["mAP 50-95"].best == [False, True]
    assert lines["last mAP 50-95"].texts == ["0.300", "0.500"]
    assert lines["best epoch"].texts == ["2", "2"] and lines["best epoch"].best == [False, False]
    assert lines["AP of dog"].texts == ["0.400", "0.500"]
    assert "mAP small" not in lines  # there are no small objects
    speed = {line.name: line for line in found.speed}
    assert speed["images per second"].texts == ["51", "50.5"]
    assert speed["images per second"].best == [True, False]
    assert speed["step, ms"].best == [False, False]  # alike
    assert speed["  training step"].texts == ["20.0 s", "20.0 s"]


def test_a_plain_table(two: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run_compare([str(run) for run in two])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["a/version_0", "b/version_0"]
    assert next(line for line in lines if "learning_rate" in line).split() == [
        "model.optimizer.learning_rate", "0.01", "0.02",
    ]  # fmt: skip
    assert "mAP 50-95" in lines[4] and lines[4].endswith("0.500 *")
    ends = {line.rindex("0.500") for line in lines if "0.500" in line}
    assert len(ends) == 1  # figures stand below each other
    assert "\x1b" not in "".join(lines)


def test_the_page_lays_curves_over_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        make_run(tmp_path / "runs" / name / "version_0", classes=(NASTY, "x"), data__root=NASTY + name)
    output = tmp_path / "pages" / "compared.html"
    run_compare(["a", "--runs_dir", str(tmp_path / "runs"), "--output", str(output), "b"])
    assert capsys.readouterr().out.splitlines()[-1] == str(output)
    page = HtmlPage(output.read_text(encoding="utf-8"))
    assert ["data.root", NASTY + "a", NASTY + "b"] in page.rows("options")
    assert f"AP of {NASTY}" in [row[0] for row in page.rows("metrics")]
    assert "script" not in [name for name, _ in page.elements]
    assert not any("onerror" in attributes for _, attributes in page.elements)
    keys = [str(attributes["style"])[-7:] for name, attributes in page.elements if name == "i"]
    for title in ("mAP 50-95", "mAP 50-95 against time", "Box loss, validation", "Images per second"):
        drawing = page.drawings[title]
        assert len(set(keys)) == 2 and all(f"stroke: {colour}" in drawing for colour in keys), title
        assert "version_0" not in drawing  # the legend stands above


def test_names_of_a_stranger_are_no_commands_to_the_terminal_and_what_is_skipped_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("\x1b[2J", "\x1b]0;title\x07")
    runs = [
        make_run(tmp_path / x / "v", classes=(name, x), data__root=name)
        for x, name in zip("ab", names, strict=True)
    ]
    (runs[1] / "environment.json").write_text("{")
    run_compare([*map(str, runs), f"--output={tmp_path / 'page.html'}"])
    said = capsys.readouterr().out
    assert all(letter.isprintable() for letter in said.replace("\n", ""))
    assert "?[2J" in said and "?]0;title?" in said
    assert f"{runs[1]}/environment.json: skipped, because it cannot be read" in said
    assert (
        f"{runs[1]}. Skipped, because they cannot be read: environment.json."
        in (tmp_path / "page.html").read_text()
    )


def test_runs_that_are_set_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path / name / "version_0") for name in ("a", "b")]
    run_compare([*map(str, runs), "--output", str(tmp_path / "page.html")])
    assert "(no option differs)" in capsys.readouterr().out
    assert "No option differs." in (tmp_path / "page.html").read_text()


def test_runs_of_metrics_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path / name / "version_0", whole=False) for name in ("a", "b")]
    run_compare([*map(str, runs), "--output", str(tmp_path / "page.html")])
    assert "mAP 50-95" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["a"], "compare was given 1 run; give two or more"),
        ([], r"required: RUN.*see yolo-lightning compare --help"),
        (["a", "nowhere"], "nowhere: there is no such run"),
        (["a", "a", "--outptu", "x"], "unrecognized arguments: --outptu"),
        (["a", "a", "--output", "runs/a/version_0/metrics.csv/page.html"], r"--output .*: cannot be written"),
    ],
)
def test_wrong_input_is_one_sentence(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "runs" / "a" / "version_0", whole=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        run_compare(argv)
    assert "\n" not in str(caught.value)


def with_matches(directory: Path, skill: float, seed: int, labels: int = 0, **options: Any) -> Path:
    """A run with the matches of a detector, see ``detector``; ``labels`` other than 0 are of other images."""
    images = [image | {"id": image["id"] + labels} for image in detector(skill, seed)]
    make_run(directory, **options)
    (directory / MATCHES).write_bytes(evaluated(images, 2)[0].to_bytes())
    return directory


def test_a_paired_bootstrap_says_which_run_is_better(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = with_matches(tmp_path / "bad" / "version_0", 0.5, 1, data__image_size=64)
    good = with_matches(tmp_path / "good" / "version_0", 0.8, 2)
    alike = with_matches(tmp_path / "alike" / "version_0", 0.8, 3, data__batch_size=8)
    run_compare([*map(str, (good, bad, alike)), "--output", str(tmp_path / "page.html")])
    *_, first, second, how, _, _ = capsys.readouterr().out.splitlines()
    assert first.startswith("bad/version_0 against good/version_0: mAP 50-95 -0.") and first.endswith(
        ": worse"
    )
    assert second.startswith("alike/version_0 against good/") and second.endswith(": no difference shown")
    assert how == "(paired bootstrap over 120 validation images, 1000 resamples)"
    assert first in HtmlPage((tmp_path / "page.html").read_text()).text


def test_runs_that_differ_in_their_seed_are_one_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        with_matches(
            tmp_path / f"size{size}" / f"version_{seed}", 0.7, size + seed,
            seed_everything=seed, data__seed=seed, data__image_size=size,
        )
        for size in (320, 640)
        for seed in (0, 1)
    ]  # fmt: skip
    run_compare([*map(str, runs)])
    *_, verdict, how = capsys.readouterr().out.splitlines()
    assert verdict.startswith(
        "size640/version_0 + size640/version_1 against size320/version_0 + size320/version_1: mAP"
    )
    assert "images and seeds" in how
    run_compare([*map(str, runs[:2])])  # then the seeds are compared
    assert "size320/version_1 against size320/version_0: mAP" in capsys.readouterr().out


def test_runs_that_cannot_be_paired_say_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        with_matches(tmp_path / name / "version_0", 0.7, 1, labels, data__root=name)
        for name, labels in (("a", 0), ("b", 500))
    ]
    run_compare([*map(str, runs)])
    said = capsys.readouterr().out
    assert "b/version_0 and a/version_0 were validated on different images or labels" in said
    assert "interval" not in said and "bootstrap" not in said
    (runs[0] / MATCHES).write_bytes(b"damaged")
    run_compare([*map(str, runs)])
    said = capsys.readouterr().out
    assert f"no paired comparison: a/version_0 has no {MATCHES}" in said
    assert f"{runs[0] / MATCHES}: skipped, because it cannot be read" in said


def test_matches_that_only_claim_the_same_images_are_not_paired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [with_matches(tmp_path / name / "version_0", 0.7, 1, data__root=name) for name in ("a", "b")]
    whole = ImageMatches.from_bytes((runs[0] / MATCHES).read_bytes())
    longer = whole._replace(image_ids=np.append(whole.image_ids, whole.image_ids[-1] + 1))
    (runs[0] / MATCHES).write_bytes(longer._replace(image=longer.image + np.uint32(1)).to_bytes())
    run_compare([*map(str, runs)])
    assert "were validated on different images or labels" in capsys.readouterr().out
