from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from yolo_lightning.cli.doctor import diagnose
from yolo_lightning.data.augment import AugmentationConfig
from yolo_lightning.data.batch import Batch
from yolo_lightning.data.module import DetectionDataModule
from yolo_lightning.data.synthetic import make_dataset
from yolo_lightning.errors import InputError
from yolo_lightning.performance.doctor import examination
from yolo_lightning.performance.doctor.examination import Examination
from yolo_lightning.performance.doctor.images import ImageCost, LoaderRate, TrainingSample
from yolo_lightning.performance.doctor.plan import Form, Plan, StepTime, Timing, Verdict, command_line
from yolo_lightning.performance.doctor.report import Report
from yolo_lightning.performance.doctor.short_training import ShortTraining
from yolo_lightning.training.module import YOLOv5
from yolo_lightning.training.precision import Precision

FAST = Form("bf16-mixed", channels_last=True, compile=False)
PLAIN = Form("32-true", channels_last=True, compile=False)
STEP_MS = {"32-true": 24.0, "bf16-mixed": 12.0}
"""What a step takes in the imagined world, in ms an image."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "synth"
    return make_dataset(folder, train_images=12, val_images=4, image_size=128)


class World:
    """A machine of which all times are known: nothing is measured, and everything else is real."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loader_ms = {"none": 1.0, "disk": 0.5, "device": 0.1}
        self.loader_ms_of_workers: dict[int, float] = {}
        self.read_fraction = 0.1
        self.compiled_ms = 14.0
        self.timed: list[Form] = []
        for name, stand_in in (
            ("measure_images", lambda sample, budget_s: ImageCost(3.0, 1.0, 2.0, 4)),
            ("eager_forms", lambda device, compile: [PLAIN, FAST]),
            ("compiler_obstacle", lambda device: None),
        ):
            monkeypatch.setattr(examination, name, stand_in)
        monkeypatch.setattr(ShortTraining, "time_step", self._time_step)
        monkeypatch.setattr(Examination, "_load", self._load)
        monkeypatch.setattr(Examination, "_train", self._train)

    def _time_step(self, form: Form, batch: Batch, seconds: float) -> StepTime:
        self.timed.append(form)
        step_ms = self.compiled_ms if form.compiles_network else STEP_MS[form.precision]
        images = len(batch.images)
        return StepTime(form, images, images * (step_ms + 1.0), 5, 1.0)

    def _load_ms(self, plan: Plan) -> float:
        return self.loader_ms_of_workers.get(plan.workers, self.loader_ms[plan.cache])

    def _load(self, plan: Plan, seconds: float) -> LoaderRate:
        return LoaderRate(1000 / self._load_ms(plan), self.read_fraction)

    def _train(self, plan: Plan, loader_ms: float, step: StepTime, seconds: float) -> Timing:
        return Timing(loader_ms, step.image_ms, step.image_ms + loader_ms)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def report_of(
    root: Path,
    precision: Precision = "bf16-mixed",
    *,
    compile: Any = "auto",
    seconds: float = 60.0,
    **data: Any,
) -> Report:
    module = YOLOv5("yolov5n", compile=compile)
    datamodule = DetectionDataModule(str(root), image_size=64, batch_size=4, **data)
    return diagnose(module, datamodule, precision, "cpu", seconds, announce=lambda _: None)


def test_images_that_are_decoded_in_the_main_process(root: Path, world: World) -> None:
    world.loader_ms["none"] = 17.0
    report = report_of(root, num_workers=0, cache="none")
    assert report.verdict.bottleneck == "decoding"
    assert report.command == "--data.cache device --data.num_workers auto"
    # 17 + 12 + 1 = 30 ms an image become 0.1 + 12 + 1
    assert report.images_per_second == pytest.approx(1000 / 30)
    assert report.predicted_images_per_second == pytest.approx(1000 / 13.1)
    assert report.epoch_s == pytest.approx(12 * 0.030)
    assert any("filling the cache" in note for note in report.notes)


def test_a_slow_disk(root: Path, world: World) -> None:
    world.loader_ms["none"], world.read_fraction = 17.0, 0.9
    report = report_of(root, num_workers=2, cache="none")
    assert report.verdict.bottleneck == "reading"
    assert "reading files takes 90 %" in report.verdict.sentence
    assert report.command == "--data.cache device --data.num_workers auto"


def test_a_step_in_fp32(root: Path, world: World) -> None:
    world.loader_ms["none"] = 0.3  # not worth a cache
    report = report_of(root, "32-true", compile=False, cache="none")
    assert report.verdict.bottleneck == "step"
    assert report.command == "--trainer.precision bf16-mixed"
    # 24 + 1 + 0.3 ms become 12 + 1 + 0.3
    assert report.verdict.gain == pytest.approx(25.3 / 13.3)


def test_a_training_that_lacks_nothing(root: Path, world: World) -> None:
    report = report_of(root, cache="device")
    assert report.verdict.bottleneck is None
    assert report.command == "" and report.verdict.gain == 1.0
    assert report.now == report.better == Plan("device", 0, FAST)
    assert "No option was found" in str(report)


def test_where_no_cache_fits_other_numbers_of_workers_are_tried(
    root: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yolo_lightning.data.images.choose_cache.available_memory", lambda: 1000)
    monkeypatch.setattr("yolo_lightning.system.cores.usable_cores", lambda: 2)
    world.loader_ms["none"] = 17.0
    world.loader_ms_of_workers = {2: 9.0, 4: 9.1}
    report = report_of(root, num_workers=0, cache="none")
    assert report.verdict.bottleneck == "decoding"
    assert report.command == "--data.num_workers 2"
    assert report.verdict.gain == pytest.approx(30 / 22)
    assert "no cache has room for the decoded images" in report.notes


def test_a_compiled_network_is_recommended_where_it_measured_faster(root: Path, world: World) -> None:
    world.compiled_ms = 8.0
    report = report_of(root, compile=False, seconds=300.0, cache="device")
    assert report.command == "--model.compile default"
    assert report.verdict.bottleneck == "step"  # 4 of 13.1 ms
    assert report.verdict.gain == pytest.approx(13.1 / 9.1)
    configured = report_of(root, compile="default", cache="device")  # measured whatever the time
    assert configured.now.form.compiles_network and configured.command == ""


def test_a_network_is_not_compiled_on_a_cpu_in_a_minute(root: Path, world: World) -> None:
    report = report_of(root, seconds=60.0, cache="device")
    assert "--seconds 300 measures it" in str(report)
    assert not any(form.compiles_network for form in world.timed)


def test_wrong_input_is_refused(tmp_path: Path, root: Path, world: World) -> None:
    with pytest.raises(InputError):
        report_of(tmp_path / "nothing")


def make_report() -> Report:
    now, better = Plan("none", 0, PLAIN), Plan("device", 0, FAST)
    time = StepTime(PLAIN, 4, 50.0, 9, loss=1.0, peak_bytes=3 << 29)
    failed = StepTime(FAST._replace(compile="default"), 4, failure="OutOfMemoryError: too large")
    options = {"data.cache": "device"}
    return Report(
        machine="a CPU",
        network="yolov5n, batches of 4 x 64 px",
        images=6000,
        image_cost=ImageCost(3.0, 1.0, 2.0, 4),
        steps=[time, failed],
        copy_gb_per_s=12.5,
        now=now,
        now_timing=Timing(5.0, 20.0, 25.0),
        better=better,
        better_timing=Timing(0.1, 12.0, 12.5),
        verdict=Verdict("decoding", "decoding images", options, 2.0),
        notes=["something"],
    )


def test_the_table_has_every_figure() -> None:
    text = str(make_report())
    for part in (
        "loader alone",
        "200 images/s",  # 5 ms an image
        "80 images/s  50 ms for 4 images, 1.5 GiB",
        "OutOfMemoryError: too large",
        "12.5 GB/s",
        "The bottleneck is decoding images.",
        "Set:     --data.cache device",
        "Now:     40 images/s, 2 min 30 s an epoch",
        "Then:    80 images/s, 1 min 15 s (2.00 times as fast)",
        "Note:    something",
    ):
        assert part in text


def test_the_report_for_machines_is_strict_json() -> None:
    printed = json.dumps(replace(make_report(), now_timing=Timing(5.0, math.nan, 25.0)).as_json())  # no step

    def refuse(name: str) -> None:
        raise AssertionError(name)  # NaN and Infinity are not JSON

    values = json.loads(printed, parse_constant=refuse)
    assert values["bottleneck"] == "decoding"
    assert values["recommendation"] == {"data.cache": "device"}
    assert values["command"] == command_line(values["recommendation"]) == "--data.cache device"
    assert (values["images_per_second"], values["predicted_images_per_second"]) == (40.0, 80.0)
    assert (values["epoch_s"], values["predicted_epoch_s"]) == (150.0, 75.0)
    assert values["steps"][1]["median_ms"] is None
    assert values["now"]["step_images_per_second"] is None
    assert values["steps"][0]["form"] == {
        "precision": "32-true",
        "channels_last": True,
        "compile": False,
    }


@pytest.mark.parametrize(("workers", "multi_scale"), [(0, 0.5), (1, 0.0)])
def test_a_real_examination(
    workers: int, multi_scale: float, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything measured, but for compilers, which take too long for a test."""
    monkeypatch.setattr(examination, "compiler_obstacle", lambda device: "no compiler in this test")
    monkeypatch.setattr(examination, "eager_forms", lambda device, compile: [PLAIN._replace(compile=False)])
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other are slow where other tests hold the cores
    told: list[str] = []
    module = YOLOv5("yolov5n", compile=False, augmentation=AugmentationConfig(multi_scale=multi_scale))
    data = DetectionDataModule(str(root), image_size=64, batch_size=4, num_workers=workers, cache="none")
    report = diagnose(module, data, "32-true", "cpu", seconds=0.5, announce=told.append)
    torch.set_num_threads(threads)
    values = report.as_json()
    assert values["images"] == 12 and values["images_per_second"] > 0
    assert values["now"]["cache"] == "none" and values["now"]["precision"] == "32-true"
    assert all(math.isfinite(time.loss) for time in report.steps)
    assert report.verdict.gain >= 1
    assert len(told) >= 4
    assert torch.equal(torch.random.get_rng_state(), state)
    assert "network" not in module._modules  # the user's module was not built
    assert not list(root.rglob("*.uint8"))  # nor a cache


def test_the_sample_shrinks_where_images_cost_much(
    root: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    real = TrainingSample.__init__

    def watch(self: TrainingSample, *args: Any) -> None:
        real(self, *args)
        drawn.append(len(self.index))

    monkeypatch.setattr(TrainingSample, "__init__", watch)
    monkeypatch.setattr(examination, "measure_images", lambda sample, budget_s: ImageCost(5e3, 5e3, 1.0, 4))
    report_of(root, seconds=60.0, cache="none")
    assert drawn == [12, 4]  # one batch


def test_few_images_are_trained_on_where_steps_are_slow(
    root: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "usable_cores", lambda: 2)
    monkeypatch.setitem(STEP_MS, "bf16-mixed", 10_000.0)
    assert {time.batch_size for time in report_of(root, cache="none").steps} == {2}
    monkeypatch.setitem(STEP_MS, "bf16-mixed", 12.0)
    assert {time.batch_size for time in report_of(root, cache="none").steps} == {4}
