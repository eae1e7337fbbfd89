"""Two processes on one machine: the gradient of the joined batch, and a whole run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from yolo_lightning.losses import AnchorFreeLossConfig, AnchorLossConfig
from yolo_lightning.model.network import build_network
from yolo_lightning.training import build_criterion, gradient_scale, rank_mean, training_losses


def joined_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """4 images of 64 px with 3, 1, 0 and 0 labels: the second half of the batch has none."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 64, 64, generator=generator)
    targets, mask = torch.zeros(4, 16, 5), torch.zeros(4, 16, dtype=torch.bool)
    rows = torch.tensor(
        [[0, 4, 4, 30, 40], [2, 20, 10, 60, 60], [1, 33, 33, 47, 52], [2, 8, 16, 40, 48]]
    ).float()
    targets[0, :3], mask[0, :3] = rows[:3], True
    targets[1, 0], mask[1, 0] = rows[3], True
    return images, targets, mask


def gradients(architecture: str, rank: int, world_size: int) -> dict[str, torch.Tensor]:
    """Gradients of this rank's part of the batch, averaged by DDP where there are several."""
    torch.manual_seed(0)
    network = build_network(architecture, 3).double()
    network.eval()  # batch norms see each rank's images alone; with fixed statistics nothing else differs
    criterion = build_criterion(network.head, AnchorLossConfig(), AnchorFreeLossConfig())
    model: torch.nn.Module = network
    if world_size > 1:
        model = DistributedDataParallel(network)
        criterion.rank_mean, criterion.ranks = rank_mean, world_size
    images, targets, mask = (part.chunk(world_size)[rank] for part in joined_batch())
    loss, _ = training_losses(model, criterion, images.double(), targets, mask)  # type: ignore[arg-type]
    (loss * gradient_scale(len(images), world_size)).backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def _work(rank: int, architecture: str, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    found = gradients(architecture, rank, 2)
    if rank == 0:
        torch.save(found, Path(folder) / "gradients.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("architecture", ["yolov5n", "yolov5nu"])
def test_gradient_of_two_ranks_is_that_of_the_joined_batch(tmp_path: Path, architecture: str) -> None:
    torch.multiprocessing.spawn(_work, (architecture, str(tmp_path)), nprocs=2)  # type: ignore[attr-defined]
    together = torch.load(tmp_path / "gradients.pt", weights_only=True)
    alone = gradients(architecture, 0, 1)
    assert together.keys() == alone.keys()
    largest = max(float(g.abs().max()) for g in alone.values())
    for name, gradient in alone.items():
        torch.testing.assert_close(together[name], gradient, rtol=1e-4, atol=1e-6 * largest)


def test_a_run_on_two_processes(tmp_path: Path, shapes: Path) -> None:
    """5 validation images are 3 and 2: one rank has a batch more, and none is counted twice."""
    command = [
        sys.executable, "-m", "yolo_lightning", "fit", f"--data.root={shapes}", "--data.image_size=64",
        "--data.batch_size=2", "--data.num_workers=0", "--model.compile=false", "--trainer.max_epochs=2",
        "--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp",
        f"--runs_dir={tmp_path}",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    [version] = (tmp_path / "fit").iterdir()
    summary = json.loads((version / "summary.json").read_text())
    assert summary["epochs"] == 2
    assert summary["last"]["val/map"] >= 0
    assert (version / "checkpoints" / "last.ckpt").is_file()
