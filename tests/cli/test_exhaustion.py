import errno
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from yolo_lightning.cli import exhaustion
from yolo_lightning.cli.exhaustion import explaining_exhaustion
from yolo_lightning.errors import InputError

RUN = Path("/runs/fit/version_0")


def told(on_gpu: bool, error: Exception, precision: str | None = None, **data: object) -> str:
    options = {"batch_size": 16, "image_size": 640, "cache": "auto", "num_workers": 4, **data}
    trainer = SimpleNamespace(accelerator="gpu" if on_gpu else "cpu", precision=precision)
    config = SimpleNamespace(data=SimpleNamespace(**options), trainer=trainer)
    with pytest.raises(InputError) as raised, explaining_exhaustion(config, RUN):
        raise error
    return str(raised.value)


def test_the_options_follow_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exhaustion, "is_on_gpu", lambda accelerator: accelerator == "gpu")
    monkeypatch.setattr(exhaustion, "training_has_begun", lambda: False)
    on_gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")
    assert told(True, on_gpu, precision="32-true") == (
        "the GPU is out of memory (tried to allocate 2.00 GiB), with batches of 16 images of 640 px; give "
        "--data.batch_size 8, --trainer.precision bf16-mixed, --data.image_size 448, --data.cache disk, "
        "and start again"
    )
    assert told(True, on_gpu, precision="bf16-mixed", batch_size=1, cache="none").endswith(
        "; give --data.image_size 448, and start again"
    )
    assert told(False, MemoryError(), cache="disk").endswith(
        "; give --data.batch_size 8, --data.image_size 448, fewer --data.num_workers, and start again"
    )
    assert told(False, MemoryError(), batch_size=1, image_size=64, cache="none", num_workers=0).endswith(
        "; give a smaller --model.architecture, and start again"
    )


def test_other_errors_stay_as_they_are() -> None:
    for error in (ValueError("x"), InputError("Cannot allocate memory; give less")):
        with pytest.raises(type(error)) as raised, explaining_exhaustion(None, RUN):
            raise error
        assert raised.value is error


@pytest.mark.parametrize(("name", "where"), [(None, RUN), ("/tmp/file", "/tmp/file")])
@pytest.mark.parametrize("trains", [False, True])
def test_a_full_disk_names_its_file_or_the_run_and_what_can_be_resumed(
    name: str | None, where: object, trains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exhaustion, "training_has_begun", lambda: trains)
    remedy = "resume with --ckpt_path last" if trains else "start again"
    assert told(False, OSError(errno.ENOSPC, "No space left on device", name)) == (
        f"{where}: No space left on device; make room and {remedy}"
    )


def test_threads_keep_quiet_about_a_full_disk_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: Exception) -> None:
        raise error

    before = threading.excepthook
    threading.excepthook = threading.__excepthook__
    with explaining_exhaustion(None, RUN):
        for error in (OSError(errno.ENOSPC, "No space left on device"), ValueError("a bug")):
            thread = threading.Thread(target=fail, args=(error,))
            thread.start()
            thread.join()
    assert threading.excepthook is threading.__excepthook__
    threading.excepthook = before
    written = capsys.readouterr().err
    assert "ValueError: a bug" in written and "No space" not in written
