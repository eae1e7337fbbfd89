"""GitHub's workflows and issue form: their published schemas, their scripts, and the files they call."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.linters import schema_errors, tool

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".github" / "workflows"
NAMES = ("ci.yml", "train.yml")
ON = True
"""The key ``on`` as YAML 1.1 reads it."""


def workflow(name: str) -> dict[Any, Any]:
    document = yaml.safe_load((FOLDER / name).read_text())
    assert isinstance(document, dict)
    return document


def steps(name: str) -> Iterator[dict[str, Any]]:
    for job in workflow(name)["jobs"].values():
        yield from job["steps"]


def scripts(name: str) -> list[str]:
    return [step["run"] for step in steps(name) if "run" in step]


def errors(document: dict[Any, Any]) -> list[str]:
    named = {"on" if key is ON else key: value for key, value in document.items()}
    return schema_errors("github-workflows", named)


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_follows_the_published_schema(name: str) -> None:
    assert errors(workflow(name)) == []


def test_the_issue_form_follows_the_published_schema() -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text())
    assert schema_errors("github-issue-forms", form) == []
    del form["body"][1]["attributes"]["label"]
    assert schema_errors("github-issue-forms", form) != []


def test_the_schema_finds_what_is_wrong() -> None:
    breaks: list[Callable[[Any], Any]] = [
        lambda document: document["jobs"]["lint"].pop("runs-on"),
        lambda document: document["jobs"]["test"].update(timeout="5m"),
        lambda document: document["permissions"].update(contents="all"),
        lambda document: document["jobs"]["lint"]["steps"][0].update(run="true"),
    ]
    for broken in breaks:
        document = copy.deepcopy(workflow("ci.yml"))
        broken(document)
        assert errors(document) != []


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_may_only_read_and_uses_actions_by_their_commit(name: str) -> None:
    """A tag can be moved to other code; the version beside the commit is for people."""
    document = workflow(name)
    assert document["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in document["jobs"].values())
    assert all(job["timeout-minutes"] for job in document["jobs"].values())
    used = [line for line in (FOLDER / name).read_text().splitlines() if re.match(r" +(- )?uses:", line)]
    pinned = r" +(- )?uses: actions/[a-z-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+"
    assert used and [line for line in used if not re.fullmatch(pinned, line)] == []


@pytest.mark.parametrize("name", NAMES)
def test_scripts_are_sound_and_nothing_is_pasted_into_them(name: str) -> None:
    """A value inside ``${{ }}`` could be a command, so inputs come as variables."""
    found = scripts(name)
    assert found and [script for script in found if "${{" in script] == []
    for script in found:
        command = [tool("shellcheck"), "--shell=bash", "-"]
        done = subprocess.run(command, input=script, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_what_a_workflow_calls_is_there(name: str) -> None:
    text = "\n".join(scripts(name))
    for path in re.findall(r"\b(?:scripts|configs)/[\w./-]+", text):
        assert (ROOT / path).is_file(), path
    for module in set(re.findall(r"-m ([\w.]+)", text)):
        if module.split(".")[0] not in ("yolo_lightning", "benchmarks"):
            assert importlib.util.find_spec(module), module
            continue
        help_ = subprocess.run(
            [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True
        )
        assert help_.returncode == 0, help_.stderr
    commands = set(re.findall(r"\byolo-lightning ([a-z]+) --", text))
    assert commands <= {"fit", "synth"}


def test_ci_runs_on_the_oldest_and_the_newest() -> None:
    document = workflow("ci.yml")
    matrix = document["jobs"]["test"]["strategy"]["matrix"]["include"]
    declared = (ROOT / "pyproject.toml").read_text()
    oldest_python = re.search(r'requires-python = ">=([\d.]+)"', declared)
    oldest_torch = re.search(r'"torch>=([\d.]+)"', declared)
    assert oldest_python and oldest_torch
    assert matrix[0] == {"python": oldest_python[1], "torch": f"{oldest_torch[1]}.*"}
    assert matrix[1]["torch"] == "2.*" and float(matrix[1]["python"].split(".")[1]) > 10
    [short, everything] = [step for step in document["jobs"]["test"]["steps"] if "if" in step]
    assert short["run"] == '.venv/bin/python -m pytest -m "not long"' and "push" in short["if"]
    assert everything["run"] == "bash scripts/run_tests.sh --all" and "schedule" in everything["if"]
    benchmark = document["jobs"]["benchmark"]
    assert "schedule" in document[ON] and "schedule" in benchmark["if"]
    assert benchmark["steps"][-1]["with"]["path"].endswith("*.json")
    assert document["concurrency"]["group"]


def gate(folder: Path, least: str, *maps: float | None) -> tuple[int, str, str]:
    """Run the last step of train.yml on runs with these val/map; return status, last line and output."""
    for number, reached in enumerate(maps):
        run = folder / "runs" / "train" / f"version_{number}"
        run.mkdir(parents=True)
        best = {"epoch": 3} if reached is None else {"epoch": 3, "val/map": reached}
        (run / "summary.json").write_text(json.dumps({"best": best, "last": {"val/map": 0.0}}))
    (folder / ".train" / "bin").mkdir(parents=True)
    (folder / ".train" / "bin" / "python").symlink_to(sys.executable)
    script = list(steps("train.yml"))[-1]["run"]
    output = folder / "output"
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "MIN_MAP": least, "GITHUB_OUTPUT": str(output)},
    )  # fmt: skip
    return done.returncode, done.stdout.strip(), output.read_text()


def test_a_run_below_the_wanted_map_fails(tmp_path: Path) -> None:
    newest_of_eleven = [0.9] * 10 + [0.31]
    status, said, output = gate(tmp_path / "below", "0.4", *newest_of_eleven)
    assert status == 1 and said == "::error::val/map 0.31 of the best epoch; wanted: at least 0.4"
    assert output == "map=0.31\n"
    assert gate(tmp_path / "enough", "0.4", 0.1, 0.4)[0] == 0
    assert gate(tmp_path / "never validated", "0", None)[0] == 1


def test_the_run_is_uploaded_whatever_it_reached() -> None:
    names = [step.get("name") for step in steps("train.yml")]
    upload = names.index("Upload the run")
    assert list(steps("train.yml"))[upload]["if"] == "always()"
    assert upload < names.index("Compare with min_map")


def test_the_training_step_passes_its_options_on(tmp_path: Path) -> None:
    """Each word of the options is one argument; no glob is expanded and nothing is executed."""
    program = tmp_path / ".train" / "bin" / "yolo-lightning"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    program.chmod(0o755)
    [script] = [step["run"] for step in steps("train.yml") if step.get("name") == "Train"]
    environment = {**os.environ, "DATA": "", "OPTIONS": "--a *\n--b $(touch here)"}
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=tmp_path, env=environment, check=True,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    words = ["fit", "--data.root", ".train/data", "--a", "*", "--b", "$(touch", "here)", "--runs_dir"]
    assert done.stdout.splitlines()[: len(words)] == words
    assert not (tmp_path / "here").exists()
