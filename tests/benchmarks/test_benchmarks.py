from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
from lightning.pytorch import Trainer

from benchmarks import contest, peers, run
from benchmarks.contenders.checkpoint_clock import AlternatingCheckpoints
from benchmarks.contenders.checkpoint_epochs import added_percent
from benchmarks.contenders.steady import steady_rate
from benchmarks.contest import Benchmark, Contender, Failure, run_contender, summarise
from benchmarks.plan import Plan
from benchmarks.ratios import paired_ratio, spread
from benchmarks.report import draw, insert, tables
from benchmarks.report import main as report
from benchmarks.results import git_commit, read_results, without_places, write_result
from yolo_lightning.__main__ import main


def toy_plan(tmp_path: Path, **more: Any) -> Plan:
    return Plan(work=tmp_path / "work", toy=True, **more)


def contender(name: str, is_ours: bool = True) -> Contender:
    return Contender(name=name, does=f"runs {name}", module="x", arguments=("--fast",), is_ours=is_ours)


def benchmark(**more: Any) -> Benchmark:
    contenders = [contender("ours"), contender("yolov5", is_ours=False)]
    given = {"name": "loader", "title": "Loader", "unit": "images/s", "contenders": contenders, "rounds": 3}
    return Benchmark(**{**given, **more})


def reading(value: float) -> dict[str, Any]:
    versions = {"torch": "2.9.0", "yolov5": "7.0.14"}
    return {"value": value, "wall_s": 2.0, "details": {"best_map": value / 1000}, "versions": versions}


def example_result() -> dict[str, Any]:
    readings = {"ours": [reading(v) for v in (300, 600, 500)], "yolov5": [reading(v) for v in (100, 150, 50)]}
    machine = {"cpu": "A CPU", "cores": 4, "cores_used": 2, "ram_gb": 16.0, "os": "Linux", "python": "3.12"}
    facts = {
        "machine": machine,
        "commit": "0123456789abcdef",
        "date": "2026-01-02",
        "command": "run",
        "toy": False,
    }
    return {**summarise(benchmark(notes=["a note"]), readings, {}), **facts}


def test_ratio_is_taken_round_by_round() -> None:
    # 300/100 = 3, 600/150 = 4, 500/50 = 10: the median is 4, though the ratio of medians is 500/100 = 5
    ratio = paired_ratio([300, 600, 500], [100, 150, 50], higher_is_better=True)
    assert ratio == {"rounds": [3, 4, 10], "median": 4, "min": 3, "max": 10}


def test_ratio_of_times_says_how_much_shorter() -> None:
    ratio = paired_ratio([10.0, 20.0], [30.0, 50.0], higher_is_better=False)
    assert ratio["rounds"] == [3, 2.5]
    assert ratio["median"] == 2.75


def test_ratio_refuses_unequal_numbers_of_rounds() -> None:
    with pytest.raises(ValueError):
        paired_ratio([1.0, 2.0], [1.0], higher_is_better=True)


def test_spread() -> None:
    assert spread([4.0, 1.0, 2.0, 8.0]) == {"median": 3.0, "min": 1.0, "max": 8.0}


def test_steady_rate_counts_whole_shares_of_the_workers_after_the_warm_up() -> None:
    sizes = iter([100, 100, 100, 100, 5, 5, 5, 5, 5, 5])
    measured = steady_rate(sizes, warm_up=3, seconds=0.0, least=3, workers=2)
    # a warm-up of 3 and at least 3 batches both become 4, as two workers make the same number each
    assert (measured["batches"], measured["images"]) == (4, 20)
    assert measured["rate"] == pytest.approx(20 / measured["seconds"])


def test_summary_holds_readings_and_ratios() -> None:
    result = example_result()
    ours = result["contenders"]["ours"]
    assert (ours["median"], ours["min"], ours["max"], ours["readings"]) == (500, 300, 600, [300, 600, 500])
    assert result["ratios"]["ours / yolov5"]["median"] == 4
    assert ours["arguments"] == ["--fast"]


def test_summary_of_a_contender_that_failed_pairs_what_there_is() -> None:
    readings = {"ours": [reading(300), reading(400)], "yolov5": [reading(100)]}
    result = summarise(benchmark(), readings, {"yolov5": "status 1"})
    assert result["contenders"]["yolov5"]["failed"] == "status 1"
    assert result["ratios"]["ours / yolov5"]["rounds"] == [3]


def test_result_survives_the_round_trip(tmp_path: Path) -> None:
    result = example_result()
    path = write_result(tmp_path, result)
    (tmp_path / "other.json").write_text('{"of": "another form"}')
    assert path == tmp_path / "loader.json"
    assert read_results(tmp_path) == {"loader": result}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["loader.json", "other.json"]


def test_places_of_the_machine_are_named_by_what_they_are() -> None:
    value = {"a": ["/home/me/work/data", 3], "b": "python /home/me/x"}
    replaced = without_places(value, {"/home/me": "HOME", "/home/me/work": "WORK"})
    assert replaced == {"a": ["WORK/data", 3], "b": "python HOME/x"}


def test_commit_is_that_of_the_checkout() -> None:
    commit = git_commit()
    if (run.REPOSITORY / ".git").exists():
        head = ["git", "-C", str(run.REPOSITORY), "rev-parse", "HEAD"]
        printed = subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()
        assert commit is not None and commit.removesuffix("-dirty") == printed


def test_table_says_each_reading_and_ratio() -> None:
    text = tables({"loader": example_result()})
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[2] == "| Loader | ours | 500 (300 to 600) images/s |  | best mAP 0.467 |"
    assert rows[3] == "|  | yolov5 | 100 (50 to 150) images/s | 4.00x (ours) | best mAP 0.100 |"
    assert text.startswith(
        "loader: A CPU, 2 of 4 cores, 16.0 GB; 2026-01-02, commit 0123456789ab; torch 2.9.0; yolov5 7.0.14."
    )
    assert "A note." in text and "* loader: yolov5: runs yolov5" in text


def test_table_says_what_failed() -> None:
    result = {
        **example_result(),
        **summarise(benchmark(), {"ours": [reading(3)], "yolov5": []}, {"yolov5": "no"}),
    }
    assert "| yolov5 | failed: no |" in tables({"loader": result})


def test_table_goes_between_the_markers() -> None:
    page = "top\n<!-- benchmarks -->\nold\n<!-- /benchmarks -->\nend\n"
    assert insert(page, "new\n") == "top\n<!-- benchmarks -->\nnew\n<!-- /benchmarks -->\nend\n"
    assert insert("no markers\n", "new\n") is None


def test_report_writes_the_page_and_the_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_result(tmp_path, example_result())
    page = tmp_path / "benchmarks.md"
    page.write_text("no markers\n")
    arguments = ["--results", str(tmp_path), "--page", str(page)]
    assert report(arguments) == 1
    assert "lacks the lines <!-- benchmarks -->" in capsys.readouterr().err
    assert page.read_text() == "no markers\n"
    page.write_text("<!-- benchmarks -->\n<!-- /benchmarks -->\n")
    assert report(arguments) == 0
    assert "4.00x (ours)" in page.read_text()
    plot = cv2.imread(str(tmp_path / "images" / "throughput.png"))
    assert plot is not None and plot.std() > 0


def test_the_page_shows_the_results_in_the_repository() -> None:
    page = (run.REPOSITORY / "docs" / "benchmarks.md").read_text()
    kept = read_results(run.REPOSITORY / "benchmarks" / "results")
    assert insert(page, tables({name: result for name, result in kept.items() if not result["toy"]})) == page


def test_contenders_that_do_the_same_in_two_benchmarks_share_a_line() -> None:
    other = {**example_result(), "benchmark": "loader_12mp"}
    assert "* loader, loader_12mp: ours: runs ours" in tables(
        {"loader": example_result(), "loader_12mp": other}
    )


def test_nothing_is_drawn_without_a_throughput(tmp_path: Path) -> None:
    assert not draw({"loader": {**example_result(), "unit": "s"}}, tmp_path / "plot.png")


def test_report_takes_no_toy_for_a_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_result(tmp_path, {**example_result(), "toy": True})
    assert report(["--results", str(tmp_path)]) == 1
    assert "run python -m benchmarks.run first" in capsys.readouterr().err


def test_contender_without_a_reading_is_a_failure(tmp_path: Path) -> None:
    wrong = Contender(name="wrong", does="nothing", module="steady", arguments=())
    with pytest.raises(Failure, match="status 0, last line: none"):
        run_contender(wrong, 0, Path(sys.executable), {"PYTHONPATH": str(run.REPOSITORY)}, tmp_path, 200)


def test_every_other_round_goes_backwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr(
        contest, "run_contender", lambda each, number, *_: ran.append(f"{each.name} {number}") or reading(1.0)
    )
    result = contest.hold(benchmark(), toy_plan(tmp_path), {None: tmp_path}, {None: {}}, lambda _: None)
    assert ran == ["ours 0", "yolov5 0", "yolov5 1", "ours 1", "ours 2", "yolov5 2"]
    assert result["ratios"]["ours / yolov5"]["rounds"] == [1.0] * 3


def test_what_a_save_adds_is_taken_between_neighbours() -> None:
    # (11 + 12) / (10 + 13) = 1, and (15 + 6) / (10 + 10) = 1.05 for five; the fifth has no neighbours
    percent = added_percent([11.0, 12.0, 15.0, 6.0, 9.0], [10.0, 13.0, 10.0, 10.0], saves=5)
    assert percent == pytest.approx([0.0, 1.0])


def test_epochs_have_saves_in_an_order_in_which_drift_cancels(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AlternatingCheckpoints, "saved_s", [])
    monkeypatch.setattr(AlternatingCheckpoints, "unsaved_s", [])
    saved: list[int] = []
    original = Trainer.save_checkpoint

    def save(self: Trainer, *arguments: Any, **more: Any) -> None:
        saved.append(self.current_epoch)
        original(self, *arguments, **more)

    monkeypatch.setattr(Trainer, "save_checkpoint", save)
    main(
        [
            *("fit", "--data.image_size=64", "--data.batch_size=4", "--data.num_workers=0"),
            *("--model.compile=false", "--model.channels_last=true", "--trainer.precision=32-true"),
            *("--trainer.accelerator=cpu", "--trainer.max_epochs=5", f"--data.root={shapes}"),
            *(f"--runs_dir={tmp_path}", "--dashboard.pictures=0", "--dashboard.curves=false"),
            "--trainer.callbacks+=benchmarks.contenders.checkpoint_clock.AlternatingCheckpoints",
        ]
    )
    batches = AlternatingCheckpoints.batches
    assert batches > 1
    often = [epoch for epoch in range(5) if saved.count(epoch) >= batches]
    assert often == [0, 1, 4]  # yes, no, no, yes from the second one on
    assert len(AlternatingCheckpoints.saved_s) == len(AlternatingCheckpoints.unsaved_s) == 2
    assert AlternatingCheckpoints.seconds > sum(AlternatingCheckpoints.saved_s)


def test_peer_gets_the_torch_that_we_have() -> None:
    import torch

    wanted = peers.requirements("yolov5")
    assert "yolov5==7.0.14" in wanted and "setuptools<81" in wanted
    assert f"torch=={torch.__version__.split('+')[0]}" in wanted


def test_toy_run_makes_no_environment(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="give --peer-env yolov5=FOLDER"):
        peers.python_of(toy_plan(tmp_path), "yolov5")
    with pytest.raises(RuntimeError, match="is not an environment"):
        peers.python_of(toy_plan(tmp_path, peer_environments={"yolov5": tmp_path}), "yolov5")


def test_nobody_inherits_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    variables = peers.environment_of(toy_plan(tmp_path), None)
    assert "OMP_NUM_THREADS" not in variables
    assert variables["PYTHONPATH"] == str(run.REPOSITORY)


def test_what_lacks_its_data_is_skipped(tmp_path: Path) -> None:
    plan = Plan(work=tmp_path)
    assert "give --bccd DIR" in str(run.missing("train_nu", plan))
    assert "give --weights FILE" in str(run.missing("ceiling", Plan(work=tmp_path, bccd=tmp_path)))
    assert run.missing("loader", plan) is None


def test_toy_run_of_the_loader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--toy", "--only", "loader", "--contenders", "ours", "yolov5"]
    work, out = tmp_path / "work", tmp_path / "out"
    assert run.main([*arguments, "--work", str(work), "--out", str(out)]) == 0
    assert "loader: yolov5 is left out: a toy run makes no environment" in capsys.readouterr().out
    result = json.loads((out / "loader.json").read_text())
    assert list(result["contenders"]) == ["ours"] and result["rounds"] == 1 and result["toy"]
    assert result["contenders"]["ours"]["readings"][0] > 0
    assert result["contenders"]["ours"]["details"][0]["workers"] == 2
    assert result["machine"]["cores"] > 0 and result["contenders"]["ours"]["versions"]["torch"]
    assert str(tmp_path) not in json.dumps(result["contenders"])
