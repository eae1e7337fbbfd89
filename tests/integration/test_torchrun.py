"""Two "nodes" on this machine, each scripts/launch_torchrun.sh with one process, as on plain machines."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.support.quiet import QUIET

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "launch_torchrun.sh"
EPOCHS = 8

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


class Reporter(Callback):
    """Tells from within each process how far it is, and what its weights are in the end.

    Args:
        folder: for ``<rank>.progress`` (process id, epoch, batch) and ``<rank>.weights`` (a digest).
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        path = self.folder / f"{trainer.global_rank}.progress"
        path.with_suffix(".new").write_text(f"{os.getpid()} {trainer.current_epoch} {batch_idx}")
        path.with_suffix(".new").rename(path)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        digest = hashlib.sha256()
        for parameter in pl_module.parameters():
            digest.update(parameter.detach().contiguous().numpy().tobytes())
        (self.folder / f"{trainer.global_rank}.weights").write_text(digest.hexdigest())


class Nodes:
    """Both nodes of one run, and what it writes."""

    def __init__(self, folder: Path, data: Path, name: str) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        self.last = self.runs / name / "version_0" / "checkpoints" / "last.ckpt"
        self.processes: list[subprocess.Popen[bytes]] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "PET_"))},
            "NNODES": "2", "NPROC_PER_NODE": "1", "RDZV_ENDPOINT": f"127.0.0.1:{port}",
            "LOCAL_ADDR": "127.0.0.1", "RUNS_DIR": str(self.runs), "RUN_NAME": name, "MAX_RESTARTS": "1",
            "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        reporter = {"class_path": f"{__name__}.Reporter", "init_args": {"folder": str(folder)}}
        self.command = [
            "bash", str(SCRIPT), f"--data.root={data}", "--data.image_size=64", "--data.batch_size=1",
            "--data.num_workers=0", "--data.cache=none", "--model.compile=false",
            "--trainer.precision=32-true", "--model.channels_last=true", "--trainer.accelerator=cpu",
            f"--trainer.max_epochs={EPOCHS}", "--model.optimizer.nominal_batch_size=4",
            f"--trainer.callbacks={json.dumps([reporter])}", *QUIET,
        ]  # fmt: skip

    def start(self) -> None:
        self.processes = []
        for node in (0, 1):
            with (self.folder / f"node{node}.log").open("ab") as log:
                self.processes.append(
                    subprocess.Popen(
                        self.command, env=self.environment, stdout=log, stderr=log, start_new_session=True
                    )
                )

    def log(self) -> str:
        return "\n".join((self.folder / f"node{node}.log").read_text()[-6000:] for node in (0, 1))

    def progress(self, rank: int) -> tuple[int, int, int]:
        """Process id, epoch and batch; zeros before the first batch."""
        path = self.folder / f"{rank}.progress"
        if not path.is_file():
            return 0, -1, -1
        process, epoch, batch = map(int, path.read_text().split())
        return process, epoch, batch

    def wait_until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 150
        while not reached():
            assert all(process.poll() is None for process in self.processes), self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def statuses(self) -> list[int]:
        return [process.wait(timeout=200) for process in self.processes]

    def weights(self) -> list[str]:
        return [(self.folder / f"{rank}.weights").read_text() for rank in (0, 1)]


@contextmanager
def nodes(folder: Path, data: Path, name: str) -> Iterator[Nodes]:
    """Both nodes, started; nothing of them is left afterwards."""
    folder.mkdir()
    run = Nodes(folder, data, name)
    run.start()
    try:
        yield run
    finally:
        for process in run.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
        for rank in (0, 1):
            worker = run.progress(rank)[0]
            if worker and Path(f"/proc/{worker}").exists():
                os.kill(worker, signal.SIGKILL)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> list[str]:
    """Digest of the weights on each rank, at the end of a run in which nothing happens."""
    with nodes(tmp_path_factory.mktemp("torchrun") / "undisturbed", shapes, "whole") as run:
        assert run.statuses() == [0, 0], run.log()
        return run.weights()


def test_both_nodes_end_with_the_same_weights(undisturbed: list[str]) -> None:
    assert undisturbed[0] == undisturbed[1]


def test_a_killed_process_a_stopped_process_and_a_stopped_script(
    tmp_path: Path, shapes: Path, undisturbed: list[str]
) -> None:
    """A killed process is started again from the last checkpoint. A stop saves and ends all nodes with 75.

    torchrun alone would start a process that ends with 75 again, and would itself end with 1.
    """
    with nodes(tmp_path / "killed", shapes, "killed") as run:
        run.wait_until(lambda: run.progress(1)[1:] >= (2, 1) and run.last.is_file())
        victim = run.progress(1)[0]
        os.kill(victim, signal.SIGKILL)
        run.wait_until(lambda: run.progress(1)[0] not in (0, victim))
        assert run.progress(1)[1] >= 1, "it began from nothing"
        [sentence] = [line for line in run.log().splitlines() if line.startswith("error: ")]
        assert f"(pid {victim}): was killed or died in epoch " in sentence
        os.kill(run.progress(1)[0], signal.SIGTERM)
        assert run.statuses() == [75, 75], run.log()
        stopped = run.progress(1)
        assert stopped[1] < EPOCHS - 2
        run.start()  # the same lines again resume
        run.wait_until(lambda: run.progress(1)[0] != stopped[0])
        assert run.progress(1)[1:] >= stopped[1:], "it began from nothing"
        os.kill(run.processes[1].pid, signal.SIGTERM)
        assert run.statuses() == [75, 75], run.log()
        assert run.progress(1)[1] < EPOCHS - 1
        run.start()
        assert run.statuses() == [0, 0], run.log()
        assert run.weights() == undisturbed
        assert [path.name for path in run.last.parents[2].iterdir()] == ["version_0"]


def test_what_keeps_a_run_from_beginning_is_said_once_and_is_not_tried_again(
    tmp_path: Path, shapes: Path
) -> None:
    """Of two processes on one node, which cannot resolve where rank zero is."""
    run = Nodes(tmp_path, shapes, "unresolved")
    run.environment |= {"NNODES": "1", "NPROC_PER_NODE": "2", "LOCAL_ADDR": "no-such-host.invalid"}
    run.environment |= {"RDZV_ENDPOINT": "", "MAX_RESTARTS": "3", "TMPDIR": str(tmp_path)}
    done = subprocess.run(run.command, env=run.environment, capture_output=True, text=True, timeout=200)
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr
    assert len(told) == 1 and "no-such-host.invalid (MASTER_ADDR, from torchrun), has no IP" in told[0]
    assert not (run.runs / "unresolved").exists()
