import hashlib
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer

from tests.support.tiny_data import write_image
from yolo_lightning import DetectionDataModule, YOLOv5
from yolo_lightning.cli.visualize import run_visualize
from yolo_lightning.errors import InputError
from yolo_lightning.model.network import build_network


@pytest.fixture(autouse=True)
def in_a_folder_with_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_image(Path("photos/a.png"), 40, 60)
    write_image(Path("photos/deep/a.jpg"), 60, 40, seed=1)
    write_image(Path("b.png"), 48, 48, seed=2)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("yolov5n", tmp_path_factory.mktemp("weights"))


def save(architecture: str, folder: Path) -> Path:
    torch.manual_seed(0)
    path = folder / f"{architecture}.pt"
    torch.save(build_network(architecture, 3).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Path:
    """What a fit of one epoch leaves, as far as it matters here."""
    directory = tmp_path_factory.mktemp("runs") / "runs" / "fit" / "version_0"
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, limit_train_batches=1, limit_val_batches=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=directory,
    )  # fmt: skip
    data = DetectionDataModule(root=str(shapes), image_size=64, batch_size=4, num_workers=0)
    trainer.fit(YOLOv5(compile=False), data)
    trainer.save_checkpoint(directory / "checkpoints" / "best.ckpt")
    (directory / "config.yaml").write_text(yaml.safe_dump({"data": {"image_size": 64}}))
    return directory


def visualize(*source: str, **options: object) -> list[Path]:
    words = ["--source", *source]
    for name, value in options.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return run_visualize(words)


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_a_grid_a_layer_and_an_overlay_for_each_image(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = visualize("b.png", "photos", weights=str(weights), layers=[23, 10], image_size=64)
    kinds = ("layer23", "layer10", "attention")
    assert names(found) == [f"{stem}_{kind}.png" for stem in ("b", "a", "a_2") for kind in kinds]
    assert {path.parent for path in found} == {Path("visualize")}
    assert capsys.readouterr().out.splitlines() == [str(path) for path in found]
    shapes = {path.name: cv2.imread(str(path)).shape for path in found}
    assert shapes["b_attention.png"] == (64, 64, 3)
    assert shapes["a_attention.png"] == (43, 64, 3)  # 40 x 60 px scaled, without padding
    assert shapes["a_2_attention.png"] == (64, 43, 3)
    assert shapes["b_layer10.png"][1] > 4 * 160  # 32 tiles


def test_the_layers_that_the_head_reads_are_the_default(weights: Path, tmp_path: Path) -> None:
    found = visualize("b.png", weights=str(weights), image_size=64, output="out")
    assert names(found) == [f"b_layer{n}.png" for n in (17, 20, 23)] + ["b_attention.png"]
    assert found[0].parent == Path("out")
    for architecture, layers in (("yolov5n6", (23, 26, 29, 32)), ("yolov5nu", (17, 20, 23))):
        other = visualize("b.png", weights=str(save(architecture, tmp_path)), image_size=64, output="out")
        assert names(other) == [f"b_layer{n}.png" for n in layers] + ["b_attention.png"]


def test_a_checkpoint_brings_its_network_size_and_folder(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "runs" / "fit" / "version_0")
    run_visualize(["--ckpt_path", "best", "--layers", "10", "17", "--source", "b.png"])
    folder = tmp_path / "runs" / "fit" / "version_0" / "visualize"
    assert sorted(path.name for path in folder.iterdir()) == [
        "b_attention.png", "b_layer10.png", "b_layer17.png",
    ]  # fmt: skip
    assert cv2.imread(str(folder / "b_attention.png")).shape == (64, 64, 3)
    checkpoint = str(run / "checkpoints" / "best.ckpt")
    alone = tmp_path / "moved.ckpt"
    shutil.copy(checkpoint, alone)
    first = visualize("b.png", ckpt_path=checkpoint, layers=[17], output="one")
    second = visualize("b.png", weights=str(alone), layers=[17], output="two", image_size=64)
    digests = [[hashlib.sha256(path.read_bytes()).digest() for path in paths] for paths in (first, second)]
    assert digests[0] == digests[1]


def test_a_checkpoint_whose_yaml_is_gone_needs_the_architecture(run: Path, tmp_path: Path) -> None:
    content = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    content["hyper_parameters"]["architecture"] = "gone.yaml"
    torch.save(content, tmp_path / "mine.ckpt")
    given = ["--ckpt_path", "mine.ckpt", "--source", "b.png", "--image_size", "64", "--layers", "17"]
    with pytest.raises(InputError, match=r"names the model file .gone\.yaml.*give --architecture FILE"):
        run_visualize(given)
    run_visualize([*given, "--architecture", "yolov5n"])
    assert (tmp_path / "visualize" / "b_layer17.png").is_file()


def test_options_of_the_drawing_act(weights: Path) -> None:
    given = ["--weights", str(weights), "--source", "b.png", "--image_size", "64", "--layers", "17"]
    pictures = []
    for more in ([], ["--channels", "4"], ["--interpolation", "bilinear"]):
        run_visualize([*given, *more, "--output", "x"])
        pictures.append(cv2.imread("x/b_layer17.png"))
    plain, few, blurred = pictures
    assert few.shape[0] < plain.shape[0]
    assert blurred.shape == plain.shape
    cell = (slice(4, 24), slice(4, 24))  # the first of 8 x 8 in the first tile
    assert len(np.unique(plain[cell].reshape(-1, 3), axis=0)) == 1
    assert len(np.unique(blurred[cell].reshape(-1, 3), axis=0)) > 1


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--layers", "24"], "--layers: there is no layer 24 with feature maps; there are 0 Conv, .* 23 C3$"),
        (["--layers", "x"], "argument --layers: invalid int value"),
        (["--ckpt_path", "best"], "argument --ckpt_path: not allowed with argument --weights"),
        (["--image_size", "100"], "--image_size 100 is not a multiple of 32; use 96"),
        (["--channels", "0"], "--channels is 0; give 1 or more"),
        (["--device", "nonsense"], "--device nonsense: cannot be used"),
        (["--source", "none.jpg"], "none.jpg: no such image or folder; correct --source$"),
        (["--source", "empty"], "empty: the folder has no images"),
        (["--weights", "none.pt"], "none.pt: is not a file; set --weights to a"),
        (["--architecture", "yolov5s"], "holds a yolov5n and the model is yolov5s .* --architecture yolov5n"),
        (["--output", "b.png"], "b.png/b_layer17.png: cannot be written"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_sentence(more: list[str], sentence: str, weights: Path) -> None:
    Path("empty").mkdir()
    given = ["--weights", str(weights), "--source", "b.png", "--image_size", "64"]
    with pytest.raises(InputError, match=sentence) as caught:
        run_visualize([*given, *more])
    assert "\n" not in str(caught.value)
    assert not Path("visualize").exists()


def test_weights_of_no_known_model_and_no_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"layer.weight": torch.zeros(2)}, "odd.pt")
    with pytest.raises(InputError, match=r"odd.pt: .* give its YAML as --architecture FILE"):
        visualize("b.png", weights="odd.pt")
    with pytest.raises(InputError, match="one of the arguments --ckpt_path --weights is required"):
        visualize("b.png")
    with pytest.raises(InputError, match=r"--ckpt_path best: no run in .*runs/fit has a"):
        visualize("b.png", ckpt_path="best")
    with pytest.raises(InputError, match=r"--ckpt_path auto: no run of 'fit' in runs has a checkpoint"):
        visualize("b.png", ckpt_path="auto")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_what_a_cpu_draws(weights: Path) -> None:
    pictures = [
        [cv2.imread(str(path)).astype(int) for path in visualize(
            "b.png", weights=str(weights), image_size=64, device=device, output=device)]
        for device in ("cpu", "cuda")
    ]  # fmt: skip
    for on_cpu, on_gpu in zip(*pictures, strict=True):
        assert np.abs(on_cpu - on_gpu).mean() < 2


@pytest.mark.parametrize("text", ["data: 3", "data: {image_size: big}", "["])
def test_a_damaged_configuration_of_the_run_is_named(run: Path, tmp_path: Path, text: str) -> None:
    copied = shutil.copytree(run, tmp_path / "run")
    (copied / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=r"config\.yaml: cannot be read"):
        visualize("b.png", ckpt_path=copied / "checkpoints" / "best.ckpt")


def test_links_out_of_a_folder_and_large_images_need_an_option(weights: Path) -> None:
    Path("photos/link.png").symlink_to("../b.png")
    with pytest.raises(InputError, match=r"link\.png: leads to .*, or set --allow_outside if you trust"):
        visualize("photos", weights=weights, layers=23, image_size=64)
    words = ["--source", "photos", "--weights", str(weights), "--layers", "23", "--image_size", "64"]
    assert len(run_visualize([*words, "--allow_outside", "--max_megapixels", "1"])) == 6
