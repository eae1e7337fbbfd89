"""The batch of ``auto`` against real steps, and the batch that is refused, with stand-ins for the memory."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from tests.support.allocations import allocated_peak
from tests.support.small_network import write_small_yaml
from yolo_lightning.__main__ import main
from yolo_lightning.cli import batch_size as module
from yolo_lightning.cli.batch_size import Memory, find_memory
from yolo_lightning.cli.launcher import DryCLI, launch
from yolo_lightning.data.augment import Augmentation, AugmentationConfig
from yolo_lightning.data.module import DetectionDataModule
from yolo_lightning.data.synthetic import make_dataset
from yolo_lightning.errors import InputError
from yolo_lightning.model.losses import LossConfigs
from yolo_lightning.model.network import build_network
from yolo_lightning.performance.planner import batch, confirm
from yolo_lightning.performance.planner.confirm import step_fits
from yolo_lightning.performance.planner.step import PARTS, Job, StepPlan
from yolo_lightning.training.optimizer import OptimizerConfig, build_optimizer
from yolo_lightning.training.step import Prepared, training_losses

SIDE_PX = 160


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batch_size") / "set"
    return make_dataset(folder, train_images=48, val_images=2, image_size=SIDE_PX)


def real_step(root: Path, architecture: str, batch_size: int) -> None:
    """Two steps as ``fit`` makes them: augmentation, network, loss, optimizer and averaged weights."""
    data = DetectionDataModule(str(root), image_size=SIDE_PX, batch_size=batch_size, num_workers=0)
    data.prepare("fit")
    network = build_network(architecture, 5).to(memory_format=torch.channels_last)
    average = [value.clone() for value in network.state_dict().values()]
    criterion = network.head.build_loss(LossConfigs())
    optimizer = build_optimizer(network, OptimizerConfig(), batch_size=batch_size, fused=True)
    augmentation = Augmentation(AugmentationConfig())
    for images, _ in zip(data.train_dataloader(), range(2), strict=False):
        prepared = Prepared(*augmentation(images, 0))
        loss, _ = training_losses(network, criterion, *prepared)
        (loss * batch_size).backward()
        del prepared, loss
        optimizer.step()
    data.teardown("fit")
    del average


def chosen(root: Path, architecture: str, *options: str) -> int:
    cli = launch(
        DryCLI,
        [
            *(
                "fit",
                "--data.root",
                str(root),
                "--data.image_size",
                str(SIDE_PX),
                "--data.batch_size",
                "auto",
            ),
            *("--model.architecture", architecture, "--trainer.precision", "32-true"),
            *("--trainer.accelerator", "cpu", *options),
        ],
    )
    assert cli.datamodule.batch_size == cli.config["fit"].data.batch_size
    return int(cli.datamodule.batch_size)


@pytest.mark.long
@pytest.mark.parametrize(("architecture", "largest"), [("yolov5n", 30), ("yolov5nu", 30)])
def test_auto_lands_within_a_tenth_under_the_largest_batch_that_a_limit_allows(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, largest: int
) -> None:
    limit = allocated_peak(lambda: real_step(root, architecture, largest), tmp_path)
    monkeypatch.setattr(module, "find_memory", lambda _: Memory("a limit", limit, torch.device("cpu")))
    assert 0.9 * largest <= chosen(root, architecture) <= largest


@pytest.fixture
def known_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that takes 100 MB and 10 MB an image, in place of a trace."""

    def trace_step(job: Job, batch_size: int) -> StepPlan:
        parts = dict.fromkeys(PARTS, 0) | {"weights": 10**8, "activations": 10**7 * batch_size}
        return StepPlan(batch_size, parts, {}, [])

    monkeypatch.setattr(batch, "trace_step", trace_step)


@pytest.mark.usefixtures("known_plan")
def test_auto_is_at_most_the_images_of_an_optimizer_step_and_of_the_data_set(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = write_small_yaml(tmp_path, True)
    monkeypatch.setattr(module, "find_memory", lambda _: Memory("much", 2**40, torch.device("cpu")))
    assert chosen(root, architecture) == 48
    assert chosen(root, architecture, "--model.optimizer.nominal_batch_size", "20") == 20


@pytest.mark.usefixtures("known_plan")
def test_no_image_fits_in_one_sentence(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_memory", lambda _: Memory("a card", 2**20, torch.device("cpu")))
    with pytest.raises(
        InputError, match=r"auto: a step with one image takes 0.11 GB, and a card has 0.00 GB"
    ):
        chosen(root, write_small_yaml(tmp_path, True))


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Let the options be settled as for a GPU with so many bytes; nothing is run there."""
    monkeypatch.setattr(module, "is_on_gpu", lambda _: True)
    monkeypatch.setattr(module, "find_memory", lambda _: Memory("RTX 9", size, torch.device("cuda", 0)))


@pytest.mark.usefixtures("known_plan")
def test_on_a_gpu_a_real_step_confirms_the_plan_or_takes_a_tenth_from_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = write_small_yaml(tmp_path, True)
    as_on_a_gpu(monkeypatch, 2**40)
    tried = []

    def fits(job: Job, batch_size: int, device: torch.device) -> bool:
        tried.append((job.image_size, job.on_gpu, batch_size, str(device)))
        return batch_size < 40

    monkeypatch.setattr(module, "step_fits", fits)
    assert chosen(root, architecture, "--model.augmentation.multi_scale", "0.5") == 38
    assert tried == [
        ((256, 256), True, size, "cuda:0") for size in (48, 43, 38)
    ]  # px, the largest of multi_scale


@pytest.mark.usefixtures("known_plan")
def test_images_that_a_cache_keeps_on_the_gpu_take_their_room(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = write_small_yaml(tmp_path, True)
    as_on_a_gpu(monkeypatch, 1_200_000_000)  # 552 MB for the step of 100 MB and 10 MB an image
    monkeypatch.setattr(module, "step_fits", lambda *_: True)
    assert chosen(root, architecture, "--data.cache", "disk") == 45
    assert chosen(root, architecture) == 44  # 48 images of 160 px are 3.7 MB


@pytest.mark.usefixtures("known_plan")
def test_a_batch_that_cannot_fit_on_the_card_is_refused_before_training(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = write_small_yaml(tmp_path, True)
    as_on_a_gpu(monkeypatch, 1_200_000_000)
    with pytest.raises(InputError) as raised:
        chosen(root, architecture, "--data.batch_size", "5000")
    assert str(raised.value) == (
        "data.batch_size 5000 cannot fit: a step takes 50.1 GB, and RTX 9 has 1.2 GB; give "
        "--data.batch_size 45, the largest that fits, or auto"
    )
    assert chosen(root, architecture, "--data.batch_size", "100") == 100  # close to the limit: it may fit


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_step_is_run_and_memory_that_runs_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    job = Job(write_small_yaml(tmp_path, True), 3, (SIDE_PX, SIDE_PX), precision, on_gpu=False)
    state = torch.random.get_rng_state()
    assert step_fits(job, 2, torch.device("cpu"))
    assert torch.equal(torch.random.get_rng_state(), state)

    def fail(error: Exception) -> Callable[..., None]:
        def run_step(*_: object) -> None:
            raise error

        return run_step

    monkeypatch.setattr(confirm, "run_step", fail(torch.OutOfMemoryError("CUDA out of memory.")))
    assert not step_fits(job, 2, torch.device("cpu"))
    monkeypatch.setattr(confirm, "run_step", fail(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        step_fits(job, 2, torch.device("cpu"))


def test_memory_is_that_of_the_smallest_gpu_or_a_share_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "available_memory", lambda: 900)
    on_cpu = find_memory(SimpleNamespace(accelerator="cpu", devices=3))
    assert (on_cpu.bytes, on_cpu.device.type) == (300, "cpu")
    cards = [SimpleNamespace(name=f"card {gpu}", total_memory=size) for gpu, size in enumerate((5, 3, 2))]
    monkeypatch.setattr(module, "is_on_gpu", lambda _: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda gpu: cards[gpu])
    for devices, name in (("auto", "card 2"), (2, "card 1"), ([0], "card 0")):
        assert find_memory(SimpleNamespace(accelerator="gpu", devices=devices)).name == name


@pytest.mark.usefixtures("known_plan")
def test_a_run_keeps_the_number_when_it_resumes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = write_small_yaml(tmp_path, True)
    options = [
        *("fit", "--data.root", str(root), "--data.image_size", str(SIDE_PX), "--data.batch_size", "auto"),
        *("--data.num_workers", "0", "--model.architecture", architecture, "--model.compile", "false"),
        *("--model.optimizer.nominal_batch_size", "12", "--trainer.accelerator", "cpu"),
        *("--trainer.enable_progress_bar", "false", "--trainer.num_sanity_val_steps", "0"),
        *("--runs_dir", str(tmp_path / "runs")),
    ]
    main([*options, "--trainer.max_epochs", "2", "--trainer.limit_train_batches", "1"])
    run = tmp_path / "runs" / "fit" / "version_0"
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["batch_size"] == 12
    monkeypatch.setattr(module, "find_memory", lambda _: Memory("less", 2**20, torch.device("cpu")))
    cli = launch(DryCLI, [*options, "--ckpt_path", str(run / "checkpoints" / "last.ckpt")])
    assert cli.datamodule.batch_size == 12
