import json
import os
from pathlib import Path
from typing import Any

import pytest

from yolo_lightning.errors import InputError
from yolo_lightning.runs.directory import read_metrics
from yolo_lightning.runs.run_files import read_bytes, read_content

SECRET = "the secret of another file"


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else []


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory beside a file that it should not show."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file.json").write_text(f'{{"a": "{SECRET}"}}')
    (tmp_path / "run" / "pictures").mkdir(parents=True)
    return tmp_path / "run"


def test_a_file_of_the_run_is_read_and_a_missing_one_is_none(run: Path) -> None:
    (run / "pictures" / "a.json").write_text('{"a": [1, 2.5, null, true, "é"]}')
    assert read_content(run, "pictures/a.json") == {"a": [1, 2.5, None, True, "é"]}
    assert read_content(run, "b.json") is None and read_bytes(run, "nowhere/b.json") is None
    (run.parent / "link").symlink_to(run)  # the user gave this one
    assert read_bytes(run.parent / "link", "pictures/a.json") is not None


@pytest.mark.parametrize("kind", ["file", "relative", "folder", "missing", "fifo", "directory", "huge"])
def test_only_regular_files_of_the_run_itself_are_read(run: Path, kind: str) -> None:
    path, secret = run / "pictures" / "file.json", run.parent / "secret"
    if kind == "file":
        path.symlink_to(secret / "file.json")
    elif kind == "relative":
        path.symlink_to("../../secret/file.json")
    elif kind == "folder":
        path.parent.rmdir()
        path.parent.symlink_to(secret)
    elif kind == "missing":
        path.symlink_to(secret / "nothing")
    elif kind == "fifo":
        os.mkfifo(path)  # an ordinary open would wait for ever
    elif kind == "directory":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(2**40)
    with pytest.raises(InputError, match=r"pictures/file\.json: (is no regular|cannot be read)") as caught:
        read_content(run, "pictures/file.json")
    assert SECRET not in str(caught.value)


BOMB = "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("a.json", b"{"),
        ("a.json", b""),
        ("a.json", b"[1]"),
        ("a.json", b"\xff\xfe\xfa"),
        ("a.json", b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        ("a.json", json.dumps({"a": nested(60)}).encode()),
        ("a.json", b'{"a": ' + b"9" * 5000 + b"}"),
        ("a.yaml", b"a: ["),
        ("a.yaml", b"a: " + b"[" * 2000),
        ("a.yaml", b"a: &a [*a]"),
        ("a.yaml", b"a0: &a0 [x]\n" + BOMB.encode()),
        ("a.yaml", b"a: !!int ''"),
        ("a.yaml", b"a: !!timestamp x"),
        ("a.yaml", b"a: !!python/object/apply:os.mkdir [ran]"),
        ("config.yaml", b"trainer: {max_epochs: many}"),
        ("config.yaml", b"trainer: 3"),
        ("config.yaml", b"data: {image_size: .inf}"),
        ("environment.json", b'{"gpus": "H100"}'),
        ("environment.json", b'{"command": [["fit"]]}'),
        ("environment.json", b'{"packages": null}'),
        ("gpu_health.json", b'{"devices": [null]}'),
        ("summary.json", b'{"best": {"val/map": "high"}}'),
        ("summary.json", b'{"best": {"val/map": NaN}}'),
        ("time_budget.json", b'{"seconds": {"step": 1e999}}'),
        ("time_budget.json", b'{"processes": 1.5}'),
        ("labels.png", b"root:x:0:0:"),
        ("worst.jpg", b"<svg onload='alert(1)'/>"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_sentence_that_names_it(
    run: Path, name: str, contents: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    (run / name).write_bytes(contents)
    with pytest.raises(InputError, match=rf"/{name}: cannot be read \(.*\); remove it$") as caught:
        read_content(run, name)
    assert "\n" not in str(caught.value) and not (run / "ran").exists()


def test_values_that_json_lacks_are_text(run: Path) -> None:
    (run / "a.json").write_text('{"a": [NaN, 1e999, -Infinity, 1e300]}')
    assert read_content(run, "a.json") == {"a": ["nan", "inf", "-inf", "1e+300"]}
    (run / "a.yaml").write_text("1: 2020-01-02\nb: !!set {x}\nc: !!omap [a: 1]\n")
    assert read_content(run, "a.yaml") == {"1": "2020-01-02", "b": "{'x'}", "c": [["a", 1]]}
    (run / "b.yaml").write_text("a: &a [1, 2]\nb: *a\n")  # a configuration with few aliases
    assert read_content(run, "b.yaml") == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    "text",
    [
        "a\n1\n", "epoch\n-1\n", "epoch\nnan\n", "epoch\n1e300\n", "epoch,step\n0,inf\n", "epoch\n0,1\n",
        "epoch\nx\n", "epoch\n\x00\n", "\x80", 'epoch\n"' + "1" * 200_000,
    ],
)  # fmt: skip
def test_metrics_that_are_no_table_of_epochs_are_refused(run: Path, text: str) -> None:
    (run / "metrics.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"metrics\.csv: (holds no epoch|cannot be read)"):
        read_metrics(run / "metrics.csv")
    (run / "metrics.csv").unlink()
    (run / "metrics.csv").symlink_to(run.parent / "secret" / "file.json")
    with pytest.raises(InputError, match=r"metrics\.csv: cannot be read without following links"):
        read_metrics(run / "metrics.csv")
