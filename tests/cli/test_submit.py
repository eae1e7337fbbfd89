import sys
from pathlib import Path

import pytest

from yolo_lightning.cli.submit import submit
from yolo_lightning.errors import InputError

FIT = ["--", "fit", "--data.root", "/data"]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An sbatch that notes what it gets, and gives the job number 17."""
    program = tmp_path / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/bash\necho "$*" >{tmp_path}/options\ncat >{tmp_path}/script\necho "17;here"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return program


def test_the_script_is_printed_and_nothing_done(
    tmp_path: Path, sbatch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(["slurm", "--nodes", "4", "--gpus-per-node=2", "--dry-run", *FIT]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("#!/bin/bash\n")
    for line in (
        "#SBATCH --nodes=4", "#SBATCH --ntasks-per-node=2", f"runs_dir={tmp_path}/runs", "accelerator=gpu",
        f"python={sys.executable}", 'set -- --data.root /data "$@"',
    ):  # fmt: skip
        assert line in printed.splitlines()
    assert {path.name for path in tmp_path.iterdir()} == {"bin"}


def test_without_sbatch_the_script_is_printed_and_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(["slurm", *FIT]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("#!/bin/bash\n")
    assert "sbatch is not on this machine" in printed.err


def test_a_job_is_submitted_and_it_is_said_how_to_follow_it(
    tmp_path: Path, sbatch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["--gpus-per-node=0", "--tasks-per-node=2", "--runs-dir=my runs"]
    assert submit(["slurm", *own, *FIT]) == 0
    runs = tmp_path / "my runs"
    assert (tmp_path / "options").read_text() == f"--parsable --output={runs}/slurm-%j.log\n"
    script = (tmp_path / "script").read_text()
    assert "accelerator=cpu" in script.splitlines()
    assert (runs / "slurm-17.sh").read_text() == script
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "job 17 is submitted: nodes 1, each with 2 processes on CPUs"
    assert f"  run directory  {runs}/slurm-17/version_0" in printed
    assert f"  log            tail -F '{runs}/slurm-17.log'" in printed
    assert "  stop           scancel 17" in printed
    assert any(line.startswith("  resume         RUN_NAME=slurm-17 sbatch ") for line in printed)


def test_a_run_name_among_the_options_of_fit_is_that_of_the_job(
    tmp_path: Path, sbatch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = f"{tmp_path}/bin/../bin"
    submit(["slurm", *FIT, "--run_name=first", "--runs_dir", runs])
    # It is the folder that the user names; symbolic links and the like stay theirs.
    assert f"run directory  {runs}/first/version_0" in capsys.readouterr().out
    with pytest.raises(InputError, match="--run_name is first but --run-name is second"):
        submit(["slurm", "--run-name=second", *FIT, "--run_name=first"])


def test_what_sbatch_says_is_passed_on(sbatch: Path) -> None:
    sbatch.write_text('#!/bin/bash\necho "sbatch: error: invalid partition specified: x" >&2\nexit 1\n')
    with pytest.raises(InputError, match=r"sbatch refuses the job: .* invalid partition specified: x"):
        submit(["slurm", "--partition=x", *FIT])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "arguments are required: cluster"),
        (["pbs", *FIT], "invalid choice: 'pbs'"),
        (["slurm"], "after -- comes nothing"),
        (["slurm", "--nodes=x", *FIT], "invalid int value: 'x'"),
        (["slurm", "--node=2", *FIT], "unrecognized arguments: --node=2"),
        (["slurm", "--nodes=0", *FIT], "--nodes is 0"),
        (["slurm", "--venv=nowhere", *FIT], "--venv nowhere: has no bin/python"),
        (["slurm", "fit", "--data.root=/data"], "unrecognized arguments"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(argv: list[str], words: str) -> None:
    with pytest.raises(InputError) as refused:
        submit(argv)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_help_says_what_a_job_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        submit(["slurm", "--help"])
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    assert "yolo-lightning submit slurm --nodes 4 --gpus-per-node 8 -- fit --data.root" in printed
    assert "--signal-seconds" in printed
