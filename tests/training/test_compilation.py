import os
import stat
from pathlib import Path

import pytest
from torch._inductor.runtime import cache_dir_utils

from yolo_lightning.errors import InputError
from yolo_lightning.training import compilation
from yolo_lightning.training.compilation import (
    Compilation,
    CompileOption,
    decide_compilation,
    keep_compiled_code_private,
)


@pytest.fixture(autouse=True)
def compiler_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "compiler_obstacle", lambda device_type: None)


def what(decision: Compilation) -> tuple[str | None, bool]:
    return decision.mode, decision.augmentation


def test_false_compiles_nothing() -> None:
    assert what(decide_compilation(False, "cuda", "bf16-mixed")) == (None, False)


def test_auto_compiles_all_on_cuda_and_nothing_on_a_cpu() -> None:
    assert what(decide_compilation("auto", "cuda", "bf16-mixed")) == ("default", True)
    assert what(decide_compilation("auto", "cpu", "32-true")) == (None, False)


def test_opencv_augments_on_a_cpu() -> None:
    assert what(decide_compilation("augmentation", "cuda", "32-true")) == (None, True)
    assert what(decide_compilation("augmentation", "cpu", "32-true")) == (None, False)
    assert what(decide_compilation(True, "cpu", "32-true")) == ("default", False)


def test_a_mode_compiles_all_on_cuda() -> None:
    mode = "max-autotune-no-cudagraphs"
    assert what(decide_compilation(mode, "cuda", "32-true")) == (mode, True)


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_modes_that_record_cuda_graphs_do_so_on_cuda_alone(mode: CompileOption) -> None:
    on_cuda, on_cpu = (decide_compilation(mode, device, "32-true") for device in ("cuda", "cpu"))
    assert (on_cuda.mode, on_cuda.records_graphs) == (mode, True)
    assert (on_cpu.mode, on_cpu.records_graphs) == (mode, False)
    assert not decide_compilation("max-autotune-no-cudagraphs", "cuda", "32-true").records_graphs


def test_a_machine_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "compiler_obstacle", lambda device_type: "no C++ compiler")
    decision = decide_compilation("auto", "cuda", "32-true")
    assert what(decision) == (None, False)
    assert "no C++ compiler" in decision.reason
    with pytest.raises(InputError, match=r"no C\+\+ compiler"):
        decide_compilation(True, "cpu", "32-true")


def test_a_compiler_that_fails_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    compilation.compiler_obstacle.cache_clear()

    def broken(*_: object, **__: object) -> object:
        raise RuntimeError("cannot find g++\nand more")

    monkeypatch.setattr("torch.compile", broken)
    assert "cannot find g++" in str(compilation.compiler_obstacle("cpu"))
    compilation.compiler_obstacle.cache_clear()


@pytest.mark.parametrize(
    ("option", "device", "said"),
    [
        (True, "cuda", "compiling augmentation, network and loss: the first batch takes longer (minutes"),
        ("augmentation", "cuda", "compiling the augmentation: the first batch takes longer (up to a minute"),
        (True, "cpu", "compiling network and loss: the first batch takes longer (minutes"),
        ("auto", "cpu", "None"),
        (False, "cuda", "None"),
    ],
)
def test_what_is_compiled_is_announced(option: CompileOption, device: str, said: str) -> None:
    assert str(decide_compilation(option, device, "32-true").announcement).startswith(said)


@pytest.fixture
def usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch's own folder of compiled code, in a place where anybody could have made it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # so that it is restored
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.delenv("YOLO_LIGHTNING_CACHE", raising=False)
    return Path(cache_dir_utils.default_cache_dir())


def test_compiled_code_stays_where_torch_keeps_it(usual: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        keep_compiled_code_private()
        assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    assert stat.S_IMODE(usual.stat().st_mode) == 0o700
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    keep_compiled_code_private()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "mine"


@pytest.mark.parametrize("squat", ["another's", "open", "link", "file"])
def test_no_compiled_code_is_loaded_from_where_others_write(usual: Path, tmp_path: Path, squat: str) -> None:
    if squat == "another's" and os.getuid() != 0:
        pytest.skip("needs another user")
    (tmp_path / "theirs").mkdir()
    if squat == "link":
        usual.symlink_to(tmp_path / "theirs")
    elif squat == "file":
        usual.touch()
    else:
        usual.mkdir()
        usual.chmod(0o777 if squat == "open" else 0o755)
        os.chown(usual, 12345 if squat == "another's" else -1, -1)
    keep_compiled_code_private()
    private = tmp_path / "home" / "yolo_lightning" / "torchinductor"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(private)
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert cache_dir_utils.cache_dir() == str(private)
