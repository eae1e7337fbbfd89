from pathlib import Path

import pytest

from yolo_lightning.errors import InputError
from yolo_lightning.runs import claim_run_directory, find_checkpoint, run_directory_of


def test_versions_count_up_and_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (claim_run_directory("runs", "fit") for _ in range(2))
    assert (first, second) == (tmp_path / "runs/fit/version_0", tmp_path / "runs/fit/version_1")
    assert first.is_dir() and second.is_dir()


def test_a_gap_is_not_filled(tmp_path: Path) -> None:
    (tmp_path / "fit" / "version_7").mkdir(parents=True)
    assert claim_run_directory(tmp_path, "fit").name == "version_8"


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(InputError, match="--runs_dir"):
        claim_run_directory(tmp_path / "runs", "fit")


def test_last_means_the_newest_run_that_has_one(tmp_path: Path) -> None:
    for version in (2, 10):
        path = tmp_path / "fit" / f"version_{version}" / "checkpoints"
        path.mkdir(parents=True)
        (path / "last.ckpt").write_text("")
    (tmp_path / "fit" / "version_11").mkdir()
    expected = tmp_path / "fit" / "version_10" / "checkpoints" / "last.ckpt"
    assert find_checkpoint("last", tmp_path, "fit") == expected
    assert find_checkpoint(str(expected), "elsewhere", "other") == expected
    with pytest.raises(InputError, match=r"best\.ckpt"):
        find_checkpoint("best", tmp_path, "fit")
    with pytest.raises(InputError, match="no such file"):
        find_checkpoint("nowhere.ckpt", tmp_path, "fit")


def test_a_checkpoint_belongs_to_the_run_around_it(tmp_path: Path) -> None:
    checkpoint = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    assert run_directory_of(checkpoint) is None
    (tmp_path / "version_0" / "config.yaml").write_text("")
    assert run_directory_of(checkpoint) == tmp_path / "version_0"
    assert run_directory_of(tmp_path / "version_0" / "best.ckpt") is None
