from __future__ import annotations

import importlib
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from benchmarks.gpu import arithmetic
from benchmarks.gpu.chips import peaks_of
from benchmarks.gpu.clock import EpochClock
from benchmarks.gpu.contenders import step as step_program
from benchmarks.gpu.contenders.train_ours import command_for_the_record, medians_of_monitor
from benchmarks.gpu.packages import unpack
from benchmarks.gpu.parts import TOY_ARCHITECTURE
from benchmarks.gpu.pictures import MOST_LABELS, Wanted, make_pictures
from benchmarks.gpu.substitutes import Nothing, StandFinder


def test_rates_worked_by_hand() -> None:
    assert arithmetic.per_second(50e9 * 64, 10.0, 1e12) == pytest.approx(320.0)  # TFLOP/s
    assert arithmetic.per_second(3.2e9, 4.0, 1e9) == pytest.approx(800.0)  # GB/s
    assert arithmetic.fraction(320.0, 640.0) == 0.5
    assert arithmetic.fraction(320.0, None) is None
    assert arithmetic.at_batch((1, 130), (2, 160), 64) == 100 + 64 * 30


def test_operations_of_a_convolution_counted_by_hand() -> None:
    layer = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    images = torch.rand(2, 3, 10, 10)
    products = 2 * 8 * 10 * 10 * 3 * 9  # images, channels out, places, channels in, kernel
    assert arithmetic.count_flops(lambda: layer(images)) == 2 * products
    # Backward: the gradient of the weights, but none of the images.
    assert arithmetic.count_flops(lambda: layer(images).sum().backward()) == 4 * products


def test_bytes_counted_by_hand() -> None:
    a, b = torch.rand(10), torch.rand(10)
    assert arithmetic.count_bytes(lambda: a + b) == 3 * 10 * 4
    assert arithmetic.count_bytes(lambda: a.view(2, 5).t()) == 0
    assert arithmetic.count_bytes(lambda: a.view(2, 5).to(torch.float64)) == 10 * 4 + 10 * 8


@pytest.mark.parametrize(
    ("name", "chip", "gigabytes"),
    [
        ("NVIDIA H200", "H200 SXM", 4800),
        ("NVIDIA H100 80GB HBM3", "H100 SXM", 3350),
        ("NVIDIA H100 PCIe", "H100 PCIe", 2000),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB SXM", 2039),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB", 1555),
    ],
)
def test_limits_of_a_chip_by_its_name(name: str, chip: str, gigabytes: int) -> None:
    peaks = peaks_of(name)
    assert peaks is not None
    assert (peaks.chip, peaks.gb_per_second) == (chip, gigabytes)


def test_an_unknown_chip_has_no_limits() -> None:
    assert peaks_of("NVIDIA GeForce RTX 3090") is None


def test_epochs_worked_by_hand() -> None:
    clock = EpochClock(seconds=5.0, device="cpu")
    clock.epochs = [(0.0, 60.0), (61.0, 63.0)]
    assert not clock.has_enough  # 2 s after the first epoch
    clock.epochs += [(64.0, 68.0), (69.0, 71.0)]
    assert clock.has_enough
    found = clock.reading(images=100)
    assert found["images_per_second"] == pytest.approx(50.0)  # epochs of 2, 4 and 2 s
    assert found["images_per_second_with_pauses"] == pytest.approx(30.0)  # 300 from 61 to 71
    assert found["epoch_seconds"] == [2.0, 4.0, 2.0]


def test_a_toy_step_is_measured(tmp_path: Path) -> None:
    before = torch.get_float32_matmul_precision()
    options = ["--device", "cpu", "--size", "64", "--work", str(tmp_path), "--architecture"]
    options += [
        str(TOY_ARCHITECTURE),
        "--batch",
        "2",
        "--precision",
        "fp32",
        "--steps",
        "3",
        "--warm-up",
        "1",
    ]
    try:
        found = step_program.measure(options)
    finally:
        torch.set_float32_matmul_precision(before)
    # Three convolutions and the head of toy.yaml on 2 images: (channels out, in, kernel, places).
    layers = [(8, 3, 36, 32 * 32), (16, 8, 9, 16 * 16), (16, 16, 9, 8 * 8), (3 * 85, 16, 1, 8 * 8)]
    products = [2 * 2 * out * into * kernel * places for out, into, kernel, places in layers]
    assert found["flops_a_step"] == 3 * sum(products) - products[0]  # no gradient of the images
    assert found["tflops"] == pytest.approx(found["flops_a_step"] / found["ms"] / 1e9)
    assert found["images_per_second"] == pytest.approx(2000 / found["ms"])
    assert found["ms_min"] <= found["ms"] <= found["ms_max"]
    assert found["bytes_a_step"] > 4 * 2 * 3 * 64 * 64  # the images are read, at least
    assert found["peak_tflops"] is None


def test_medians_of_the_monitor_leave_out_the_first_epoch(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(
        "epoch,perf/data_wait_fraction,perf/device_idle_fraction\n0,0.9,nan\n1,0.1,nan\n2,0.3,nan\n3,0.2,nan\n"
    )
    assert medians_of_monitor(path) == {"perf/data_wait_fraction": 0.2, "perf/device_idle_fraction": None}


def test_the_command_is_recorded_without_places() -> None:
    command = ["fit", "--data.root", "/a/b", "--model.architecture", "/c/toy.yaml", "--runs_dir", "/d"]
    recorded = "yolo-lightning fit --data.root DIR --model.architecture toy.yaml --runs_dir DIR"
    assert command_for_the_record(command) == recorded


def test_pictures_have_the_same_labels_in_both_layouts(tmp_path: Path) -> None:
    root = make_pictures(tmp_path / "pictures", Wanted(3, 96, 2500, val_images=1))
    document = json.loads((root / "annotations" / "instances_train.json").read_text())
    assert len(document["images"]) == 3
    for image in document["images"]:
        path = root / "images" / "train" / image["file_name"]
        rows = np.loadtxt(root / "labels" / "train" / f"{path.stem}.txt", ndmin=2)
        own = [entry for entry in document["annotations"] if entry["image_id"] == image["id"]]
        left, top, width, height = np.array([entry["bbox"] for entry in own], float).T
        size = np.array([image["width"], image["height"]] * 2)
        boxes = np.stack([left + width / 2, top + height / 2, width, height], 1) / size
        np.testing.assert_allclose(rows[:, 1:], boxes, atol=1e-6)
        assert rows[:, 0].tolist() == [entry["category_id"] - 1 for entry in own]
        assert 600 < path.stat().st_size < 5000
    assert sum(entry["image_id"] == 1 for entry in document["annotations"]) == MOST_LABELS
    described = yaml.safe_load((root / "data.yaml").read_text())
    assert described["path"] == str(root)
    before = (root / "data.yaml").stat().st_mtime_ns
    assert make_pictures(root, Wanted(9, 96, 2500)) == root
    assert (root / "data.yaml").stat().st_mtime_ns == before


def test_wheels_are_unpacked_once_and_anew_when_they_change(tmp_path: Path) -> None:
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    wheels.mkdir()
    with pytest.raises(FileNotFoundError, match="holds no wheels"):
        unpack(wheels, site)
    for name in ("one", "two"):
        with zipfile.ZipFile(wheels / f"{name}-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{name}/__init__.py", "")
        unpack(wheels, site)
        (site / "mark").touch()
        unpack(wheels, site)
        assert (site / "mark").exists()
    assert (site / "one" / "__init__.py").exists()
    assert (site / "two" / "__init__.py").exists()


def test_a_stand_in_has_whatever_is_imported_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [StandFinder(["absent_package"]), *sys.meta_path])
    module = importlib.import_module("absent_package.core.version")
    try:
        assert issubclass(type("Derived", (module.Version,), {}), Nothing)
        assert issubclass(module.SomeError, Exception)
        assert list(module.anything("x").more(1)) == []  # a loop over it ends
    finally:
        for name in [name for name in sys.modules if name.startswith("absent_package")]:
            del sys.modules[name]
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("another_absent_package")
