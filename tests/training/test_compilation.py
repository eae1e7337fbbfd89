import pytest

from yolo_lightning.errors import InputError
from yolo_lightning.training import compilation
from yolo_lightning.training.compilation import Compilation, decide_compilation


@pytest.fixture(autouse=True)
def compiler_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "compiler_obstacle", lambda device_type: None)


def what(decision: Compilation) -> tuple[str | None, bool]:
    return decision.mode, decision.augmentation


def test_false_compiles_nothing() -> None:
    assert what(decide_compilation(False, "cuda", "bf16-mixed")) == (None, False)


def test_auto_compiles_all_on_cuda_and_the_augmentation_on_a_cpu() -> None:
    assert what(decide_compilation("auto", "cuda", "bf16-mixed")) == ("default", True)
    assert what(decide_compilation("auto", "cpu", "32-true")) == (None, True)


def test_true_and_modes_compile_all_anywhere() -> None:
    assert what(decide_compilation(True, "cpu", "32-true")) == ("default", True)
    mode = "max-autotune-no-cudagraphs"
    assert what(decide_compilation(mode, "cuda", "32-true")) == (mode, True)


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_cuda_graphs_are_refused_on_cuda(mode: str) -> None:
    with pytest.raises(InputError, match="gradient accumulation"):
        decide_compilation(mode, "cuda", "32-true")  # type: ignore[arg-type]


def test_a_machine_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "compiler_obstacle", lambda device_type: "no C++ compiler")
    decision = decide_compilation("auto", "cpu", "32-true")
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


def test_what_is_compiled_is_announced() -> None:
    assert decide_compilation(False, "cuda", "bf16-mixed").announcement is None
    assert "network and loss" in str(decide_compilation(True, "cuda", "bf16-mixed").announcement)
    alone = str(decide_compilation("auto", "cpu", "32-true").announcement)
    assert "the augmentation" in alone and "network" not in alone
