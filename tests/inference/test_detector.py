from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.small_network import write_small_yaml
from tests.support.video import make_video
from yolo_lightning import Detections, Detector, InputError, export_model
from yolo_lightning.__main__ import main
from yolo_lightning.data.images.decode import read_rgb
from yolo_lightning.data.loading import video
from yolo_lightning.data.loading.video import Frame
from yolo_lightning.export.formats import ExportOptions, find_format, load_source
from yolo_lightning.inference import detector as detector_module
from yolo_lightning.inference.runtimes import open_model
from yolo_lightning.model.network import build_network
from yolo_lightning.model.weights import load_weights

NAMES = ("cat", "dog", "bird")
OPTIONS: dict[str, Any] = {"device": "cpu", "image_size": 64, "score_threshold": 0.6}


def save_network(path: Path, seed: int) -> Path:
    """Weights of a random network that finds much, and other things in other images."""
    torch.manual_seed(seed)
    network = build_network("yolov5n", len(NAMES))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics are those of the next batch
    network.train()(torch.rand(8, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3))
    for convolution in network.head.m:  # type: ignore[union-attr]
        convolution.weight.data.normal_(0, 0.4)
        convolution.bias.data.zero_()
    torch.save({"state_dict": network.state_dict(), "class_names": list(NAMES)}, path)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, four images of two shapes, and a video."""
    folder = tmp_path_factory.mktemp("place")
    save_network(folder / "a.pt", 0)
    save_network(folder / "b.pt", 1)
    (folder / "in").mkdir()
    rng = np.random.default_rng(0)
    for k, size in enumerate(((50, 80), (96, 96), (50, 80), (50, 80))):
        small = rng.integers(0, 255, (size[0] // 8, size[1] // 8, 3), np.uint8)
        cv2.imwrite(str(folder / "in" / f"{k}.png"), cv2.resize(small, size[::-1]))
    make_video(folder / "clip.mp4", 12)
    return folder


@pytest.fixture(scope="module")
def detector(place: Path) -> Detector:
    return Detector(place / "a.pt", **OPTIONS)


def tables(found: Any) -> list[Any]:
    assert isinstance(found, list)
    return [one.table for one in found]


def test_every_kind_of_source_gives_the_same_detections(
    detector: Detector, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted((place / "in").iterdir())
    wanted = tables(detector(place / "in"))
    assert len(wanted) == 4 and all(len(table) > 2 for table in wanted)
    assert not np.array_equal(wanted[0], wanted[2])
    rgb = [cv2.imread(str(path))[..., ::-1] for path in paths]
    tensors = [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in rgb]
    monkeypatch.chdir(place)
    (place / "list.txt").write_text("".join(f"in/{path.name}\n" for path in paths))
    for many in (
        str(place / "in" / "*.png"),
        "list.txt",
        paths,
        [str(paths[0]), *rgb[1:]],
        rgb,
        [Image.open(path) for path in paths],
        tensors,
        [tensor.float() / 255 for tensor in tensors],
    ):
        for table, expected in zip(tables(detector(many)), wanted, strict=True):
            np.testing.assert_array_equal(table, expected)
    bgr = tables(detector([image[..., ::-1] for image in rgb], bgr=True))
    np.testing.assert_array_equal(bgr[3], wanted[3])
    for one in (paths[1], rgb[1], Image.open(paths[1]), tensors[1]):
        found = detector(one)
        assert isinstance(found, Detections)
        np.testing.assert_allclose(found.table, wanted[1], atol=0.02)
    several = detector(torch.stack([tensors[0], tensors[2]]))
    np.testing.assert_allclose(tables(several)[1], wanted[2], atol=0.02)
    grey = detector(np.full((40, 40), 90, np.uint8))
    assert isinstance(grey, Detections)


def test_a_video_is_an_iterator_over_its_frames(detector: Detector, place: Path) -> None:
    found = detector(place / "clip.mp4", video_stride=5)
    assert isinstance(found, Iterator)
    frames = list(found)
    assert [one.frame for one in frames] == [4, 9] and frames[0].path == str(place / "clip.mp4")
    for one in frames:
        np.testing.assert_allclose(one.table, detector(one.image).table, atol=0.02)  # type: ignore[union-attr]
    mixed = list(detector([place / "in" / "0.png", place / "clip.mp4"]))
    assert [one.frame for one in mixed] == [None, *range(12)]


def test_memory_is_flat_over_a_long_video(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counted(np.ndarray):  # type: ignore[type-arg]
        alive = 0

        def __del__(self) -> None:
            Counted.alive -= self.base is None

    def frames(source: str, stream: int, every: int) -> Iterator[Frame]:
        for number in range(200):
            pixels = np.ndarray.__new__(Counted, (32, 32, 3), np.uint8)
            pixels.fill(number)
            Counted.alive += 1
            yield Frame(stream, number, pixels, 25.0)

    monkeypatch.setattr(video, "read_frames", frames)
    alive = [Counted.alive for one in detector("rtsp://host/long.mp4") if one is not None]  # type: ignore[union-attr]
    assert len(alive) == 200 and max(alive) <= 6 * 16


def predict(place: Path, *options: str) -> Path:
    main([
        "predict", f"--model.weights={place / 'a.pt'}", "--data.image_size=64", "--data.num_workers=0",
        "--model.score_threshold=0.6", "--model.compile=false", "--trainer.accelerator=cpu",
        "--trainer.devices=1", f"--runs_dir={place / 'runs'}", *options,
    ])  # fmt: skip
    return max((place / "runs" / "predict").iterdir(), key=lambda path: int(path.name.split("_")[1]))


@pytest.fixture(scope="module")
def predicted(place: Path) -> Path:
    """A run of predict that writes everything."""
    (place / "bad.mp4").write_bytes(b"no video, which is left out")
    source = f"--data.predict_source=[{place / 'in'}, {place / 'clip.mp4'}, {place / 'bad.mp4'}]"
    written = ("txt", "conf", "csv", "crop")
    return predict(place, source, *(f"--save_{name}=true" for name in written))


def rounded(found: Any) -> list[tuple[Any, ...]]:
    rows = [(one.names[int(row[5])], *row[:5].tolist()) for one in found for row in one.table]
    return [(name, *(round(v, 2) for v in (a, b, c - a, d - b)), round(s, 5)) for name, a, b, c, d, s in rows]


def test_predict_and_the_detector_find_the_same(detector: Detector, place: Path, predicted: Path) -> None:
    results = json.loads((predicted / "predictions.json").read_text())
    of_images = [(r["name"], *r["bbox"], r["score"]) for r in results if "frame" not in r]
    assert of_images == rounded(detector(place / "in"))
    found = list(detector(place / "clip.mp4"))
    of_frames = [r for r in results if "frame" in r]
    assert [(r["name"], *r["bbox"], r["score"]) for r in of_frames] == rounded(found)
    assert [r["frame"] for r in of_frames] == [one.frame for one in found for _ in one.table]
    assert {r["file_name"] for r in results} <= {"in/0.png", "in/1.png", "in/2.png", "in/3.png", "clip.mp4"}
    by_image = {r["image_id"]: (r["file_name"], r.get("frame")) for r in results}
    assert len(set(by_image.values())) == len(by_image)


def test_predict_writes_what_is_asked_for(detector: Detector, place: Path, predicted: Path) -> None:
    results = json.loads((predicted / "predictions.json").read_text())
    with (predicted / "predictions.csv").open() as file:
        assert len(file.readlines()) == 1 + len(results)
    one = detector(place / "in" / "1.png")
    assert isinstance(one, Detections)
    lines = (predicted / "labels" / "in" / "1.txt").read_text().splitlines()
    rows = np.array([[float(value) for value in line.split()] for line in lines])
    wide = 96 * np.stack((rows[:, 1] - rows[:, 3] / 2, rows[:, 1] + rows[:, 3] / 2), 1)
    np.testing.assert_allclose(wide, one.boxes[:, [0, 2]], atol=0.01)
    np.testing.assert_allclose(rows[:, 5], one.scores, atol=1e-5)
    frames = {r["frame"] for r in results if "frame" in r}
    labels = {path.name for path in (predicted / "labels").glob("clip_*.txt")}
    assert labels == {f"clip_{frame}.txt" for frame in frames}
    crops = list((predicted / "crops").rglob("*.jpg"))
    assert len(crops) == len(results) and {path.parent.name for path in crops} <= set(NAMES)
    drawn = [path.name for path in (predicted / "images" / "in").iterdir()]
    assert sorted(drawn) == ["0.png", "1.png", "2.png", "3.png"]
    np.testing.assert_array_equal(cv2.imread(str(predicted / "images/in/1.png"))[..., ::-1], one.plot())
    capture = cv2.VideoCapture(str(predicted / "videos" / "clip.mp4"))
    assert sum(capture.grab() for _ in range(20)) == 12


def test_options_of_predict_are_those_of_the_detector(place: Path) -> None:
    options = {"classes": "[dog, 2]", "class_agnostic": "true", "augment": "true", "max_detections": "2"}
    options |= {"tile_size": "64"}
    run = predict(
        place, f"--data.predict_source={place / 'in'}", f"--ensemble=[{place / 'b.pt'}]",
        "--save_media=false", *(f"--{name}={value}" for name, value in options.items()),
    )  # fmt: skip
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "predictions.json"]
    results = json.loads((run / "predictions.json").read_text())
    chosen: dict[str, Any] = {"classes": ["dog", 2], "class_agnostic": True, "augment": True}
    chosen |= {"max_detections": 2, "tile_size": 64}
    both = Detector([place / "a.pt", place / "b.pt"], **chosen, **OPTIONS)
    found = both(place / "in")
    assert [(r["name"], *r["bbox"], r["score"]) for r in results] == rounded(found)
    assert {r["name"] for r in results} <= {"dog", "bird"}
    assert isinstance(found, list) and max(map(len, found)) == 2
    for without in ({"tile_size": 0}, {"augment": False}, {"classes": ["dog"]}):
        other = Detector([place / "a.pt", place / "b.pt"], **chosen | without, **OPTIONS)
        assert rounded(other(place / "in")) != rounded(found), without
    alone = Detector(place / "a.pt", **chosen, **OPTIONS)(place / "in")
    assert rounded(alone) != rounded(found)


def test_predict_takes_the_image_size_of_weights_in_a_config(place: Path, tmp_path: Path) -> None:
    content = torch.load(place / "a.pt") | {"hyper_parameters": {"image_size": 96}}
    torch.save(content, weights := tmp_path / "best.ckpt")
    config = tmp_path / "mine.yaml"
    data = {"predict_source": str(place / "in"), "num_workers": 0}
    trainer = {"accelerator": "cpu", "devices": 1}
    config.write_text(json.dumps({"model": {"weights": str(weights)}, "data": data, "trainer": trainer}))
    command = ["--model.score_threshold=0.6", "--model.compile=false", "--save_media=false"]
    main(["predict", f"--config={config}", f"--runs_dir={tmp_path}", *command])
    results = json.loads((tmp_path / "predict" / "version_0" / "predictions.json").read_text())
    found = Detector(place / "a.pt", **OPTIONS | {"image_size": 96})(place / "in")
    assert [(r["name"], *r["bbox"], r["score"]) for r in results] == rounded(found)


def test_models_of_other_strides_join_an_ensemble(place: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = build_network("yolov5n6", len(NAMES)).state_dict()  # stride 64
    torch.save({"state_dict": state, "class_names": list(NAMES)}, tmp_path / "p6.pt")
    cv2.imwrite(str(tmp_path / "flat.png"), cv2.imread(str(place / "in" / "1.png"))[:20])
    run = predict(
        place, f"--data.predict_source={tmp_path / 'flat.png'}", f"--ensemble={tmp_path / 'p6.pt'}",
        "--save_media=false",
    )  # fmt: skip
    both = Detector([place / "a.pt", tmp_path / "p6.pt"], **OPTIONS)
    results = json.loads((run / "predictions.json").read_text())
    assert [(r["name"], *r["bbox"], r["score"]) for r in results] == rounded([both(tmp_path / "flat.png")])


def test_detections_are_tables_and_pictures(detector: Detector, place: Path, tmp_path: Path) -> None:
    found = detector(place / "in" / "0.png")
    assert isinstance(found, Detections)
    assert found.boxes.shape == (len(found), 4) and found.labels.dtype == np.int64
    assert found.names == NAMES and (np.diff(found.scores) <= 0).all()
    assert str(found).startswith(f"{place / 'in' / '0.png'}: ")
    assert found.plot().shape == (50, 80, 3)
    assert found.save(tmp_path / "new" / "a").name == "a.jpg"
    assert cv2.imread(str(tmp_path / "new" / "a.jpg")).shape == (50, 80, 3)


def test_detections_as_a_data_frame(detector: Detector, place: Path) -> None:
    pytest.importorskip("pandas")
    found = detector(place / "in" / "0.png")
    assert isinstance(found, Detections)
    frame = found.pandas()
    assert [*frame.columns] == ["xmin", "ymin", "xmax", "ymax", "confidence", "class", "name"]
    np.testing.assert_array_equal(frame[["xmin", "ymin", "xmax", "ymax"]].to_numpy(), found.boxes)
    assert [NAMES.index(name) for name in frame["name"]] == frame["class"].tolist() == found.labels.tolist()


def test_detections_for_supervision(detector: Detector, place: Path) -> None:
    pytest.importorskip("supervision")
    found = detector(place / "in" / "0.png")
    assert isinstance(found, Detections)
    theirs = found.to_supervision()
    np.testing.assert_array_equal(theirs.xyxy, found.boxes)
    np.testing.assert_array_equal(theirs.class_id, found.labels)
    assert theirs.data["class_name"].tolist() == [NAMES[label] for label in found.labels]


def test_a_missing_library_is_named(detector: Detector, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = detector(place / "in" / "0.png")
    assert isinstance(found, Detections)
    for name, method in (("pandas", found.pandas), ("supervision", found.to_supervision)):
        monkeypatch.setitem(__import__("sys").modules, name, None)
        with pytest.raises(InputError, match=rf"pip install 'yolo-lightning\[{name}\]'"):
            method()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"image_size": 100}, "image_size 100 is not a multiple of 32; use 96"),
        ({"classes": ["cow"]}, "classes has 'cow', which is no class; the classes are cat, dog, bird"),
        ({"score_threshold": 2}, "score_threshold is 2; give a number from 0 to 1"),
        ({"score_threshold": "high"}, "score_threshold is high; give a number from 0 to 1"),
        ({"iou_threshold": "auto"}, "iou_threshold is auto; give a number from 0 to 1"),
        ({"tile_size": 50}, "tile_size 50 is not a multiple of 32; use 64"),
        ({"device": "cuda:77"}, "device cuda:77: cannot be used"),
        ({"device": "gpu"}, "device gpu: cannot be used"),
        ({"max_detections": 0}, "max_detections is 0; give 1 or more"),
        ({"batch_size": 0}, "batch_size is 0; give 1 or more"),
        ({"device": "0"}, "device 0: cannot be used (Invalid device string: '0'); leave it out, or give cpu"),
    ],
)
def test_a_wrong_option_is_one_sentence(place: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as error:
        Detector(place / "a.pt", **OPTIONS | options)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("none.jpg", "none.jpg: no such image or folder; correct the source"),
        (np.zeros((4, 4, 3), np.float32), "a source is a float32 array of shape (4, 4, 3); give"),
        (torch.zeros(4, 4), "a tensor is torch.float32 of shape (4, 4); give (3, H, W)"),
        (torch.zeros(3, 0, 4), "a tensor is torch.float32 of shape (3, 0, 4); give (3, H, W)"),
        (torch.full((3, 4, 4), 255.0), "a tensor of floats has values outside 0..1; divide by 255"),
        (torch.full((3, 4, 4), -1.0), "a tensor of floats has values outside 0..1"),
        (Image.new("F", (4, 4)), "a PIL image has pixels of 32 bits"),
        (Path("0"), "/0: no such image or folder"),  # a str would be a camera
        (3.5, "a source is a <class 'float'>; give a path"),
        (np.zeros((3, 4, 2), np.uint8), "a source is a uint8 array of shape (3, 4, 2); give"),
    ],
)
def test_a_wrong_source_is_one_sentence(detector: Detector, source: Any, sentence: str) -> None:
    with pytest.raises(InputError) as error:
        detector(source)
    assert sentence in str(error.value)


def test_no_frame_is_every_zeroth(detector: Detector, place: Path) -> None:
    with pytest.raises(InputError, match="video_stride is 0; give 1 or more"):
        detector(place / "clip.mp4", video_stride=0)


def test_no_model_is_one_sentence() -> None:
    with pytest.raises(InputError, match="no model is given"):
        Detector([])


def test_grey_of_16_bits_is_seen_as_in_a_file(detector: Detector, place: Path, tmp_path: Path) -> None:
    grey = cv2.imread(str(place / "in" / "1.png"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(tmp_path / "grey.png"), grey.astype(np.uint16) * 257)
    with Image.open(tmp_path / "grey.png") as image:
        found = tables(detector([image, tmp_path / "grey.png", grey]))
    assert len(found[2]) > 2
    for table in found:
        np.testing.assert_array_equal(table, found[2])


def test_arrays_of_one_and_four_channels_are_seen_as_in_a_file(detector: Detector, place: Path) -> None:
    bgr = cv2.imread(str(place / "in" / "0.png"))
    bgra, grey = cv2.cvtColor(bgr, cv2.COLOR_BGR2BGRA), bgr[..., :1]
    wanted, of_grey, *found = tables(
        detector([bgr, np.repeat(grey, 3, 2), bgra, grey, grey[..., 0]], bgr=True)
    )
    assert len(wanted) > 2 and np.array_equal(found[0], wanted)
    assert all(np.array_equal(table, of_grey) for table in found[1:])


def test_a_threshold_of_numpy_is_a_number(place: Path) -> None:
    detector = Detector(place / "a.pt", **OPTIONS | {"score_threshold": np.float32(0.5)})
    assert len(tables(detector([place / "in" / "0.png"]))[0])


def test_a_single_class_needs_no_list(place: Path) -> None:
    wanted = tables(Detector(place / "a.pt", classes=["dog"], **OPTIONS)(place / "in"))
    assert any(len(table) for table in wanted)
    for one in ("dog", 1):
        found = tables(Detector(place / "a.pt", classes=one, **OPTIONS)(place / "in"))
        assert all(map(np.array_equal, found, wanted))


def test_few_images_wait_for_others_of_their_shape(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first batch is made before all images are in memory, though each has its own shape."""
    loaded = []
    monkeypatch.setattr(detector_module, "read_rgb", lambda path: loaded.append(path) or read_rgb(path))
    paths = [tmp_path / f"{k}.png" for k in range(40)]
    for k, path in enumerate(paths):
        cv2.imwrite(str(path), np.zeros((32 * (k + 1), 32, 3), np.uint8))
    batches = Detector(place / "a.pt", tile_size=64, batch_size=2, **OPTIONS)._batches([*map(str, paths)])
    next(batches)
    assert len(loaded) < 20
    assert 1 + sum(1 for _ in batches) == 40


def test_models_of_other_classes_are_no_ensemble(place: Path, tmp_path: Path) -> None:
    network = build_network("yolov5n", 2)
    torch.save({"state_dict": network.state_dict(), "class_names": ["x", "y"]}, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt: has other classes than .*a\.pt"):
        Detector([place / "a.pt", tmp_path / "other.pt"], **OPTIONS)


def assert_same(found: Any, wanted: Any) -> None:
    """Every detection well above the threshold has its like: another runtime rounds in another way."""
    for ours, theirs in ((found, wanted), (wanted, found)):
        sure = ours[ours[:, 4] > 0.65]
        assert len(sure) > 2
        for row in sure:
            near = (np.abs(theirs[:, :4] - row[:4]).max(1) < 0.5) & (np.abs(theirs[:, 4] - row[4]) < 0.01)
            assert (near & (theirs[:, 5] == row[5])).any(), row


@pytest.mark.parametrize("name", ["torchscript", "onnx"])
def test_an_exported_model_finds_what_its_source_does(place: Path, tmp_path: Path, name: str) -> None:
    if name == "onnx":
        for library in ("onnx", "onnxslim", "onnxruntime"):
            pytest.importorskip(library)
    source = load_source(place / "a.pt")
    paths = []
    for dynamic in (True, False):
        options = ExportOptions((64, 96), batch_size=2, dynamic=dynamic)
        form = find_format(name, options)
        paths.append(form.path(tmp_path / str(dynamic), "model", options))
        paths[-1].parent.mkdir()
        form.write(source, paths[-1], options)
    free = Detector(paths[0], trust=True, **OPTIONS | {"image_size": 96})
    threshold: dict[str, Any] = {"device": "cpu", "score_threshold": 0.6}
    fixed = Detector(paths[1], trust=True, **threshold)
    wanted = Detector(place / "a.pt", **OPTIONS | {"image_size": 96})
    images = [cv2.imread(str(path))[..., ::-1] for path in sorted((place / "in").iterdir())]
    images.append(cv2.resize(images[0], (96, 64)))
    for table, expected in zip(tables(free(images)), tables(wanted(images)), strict=True):
        assert_same(table, expected)
    found = tables(fixed(images))
    assert_same(found[4], tables(wanted(images))[4])
    canvas = np.full((64, 96, 3), 114, np.uint8)  # the square image is in the middle, at 2/3 of its size
    canvas[:, 16:80] = cv2.resize(images[1], (64, 64), interpolation=cv2.INTER_LINEAR)
    (by_hand,) = tables(wanted([canvas]))
    by_hand[:, :4] = ((by_hand[:, :4] - [16, 0, 16, 0]) * 1.5).clip(0, 96)
    assert_same(found[1], by_hand)
    assert len(list(fixed(place / "clip.mp4"))) == 12  # type: ignore[arg-type]
    assert_same(tables(Detector(paths[1], image_size=[64, 96], trust=True, **threshold)(images))[1], found[1])
    with pytest.raises(InputError, match=r"takes images of 96 x 64 px alone; leave image_size"):
        Detector(paths[1], image_size=640, trust=True)


def test_export_of_a_detector_is_export_model(place: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"image_size": 64, "nms": True, "score_threshold": 0.6}
    paths = Detector(place / "a.pt").export("torchscript", output=tmp_path / "method", **options)
    assert paths == [tmp_path / "method" / "a.torchscript"]
    (wanted,) = export_model(place / "a.pt", "torchscript", output=tmp_path / "function", **options)
    models = [open_model(path, trust=True) for path in (*paths, wanted)]
    assert models[0].facts == models[1].facts
    images = torch.rand(1, 3, 64, 64)
    for found, expected in zip(models[0](images), models[1](images), strict=True):
        assert torch.equal(found, expected)
    with pytest.raises(InputError, match="the detector joins 2 models; export each of them alone"):
        Detector([place / "a.pt", place / "b.pt"]).export("torchscript")


def test_export_of_a_detector_knows_its_architecture(tmp_path: Path) -> None:
    """A state dict does not tell the YAML that its model was built from."""
    architecture = write_small_yaml(tmp_path, anchors=True)
    torch.save(build_network(architecture, 2).state_dict(), tmp_path / "own.pt")
    detector = Detector(tmp_path / "own.pt", architecture=architecture)
    (path,) = detector.export("safetensors", output=tmp_path)
    assert load_weights(path).num_classes == 2


@pytest.mark.long
def test_predict_of_a_thousand_frames_finds_what_is_in_them(detector: Detector, place: Path) -> None:
    path = make_video(place / "long.mp4", 1000)
    results = json.loads((predict(place, f"--data.predict_source={path}") / "predictions.json").read_text())
    found = {}
    for one in detector(path):  # type: ignore[union-attr]
        found[one.frame] = len(one)
    assert len(found) == 1000
    assert [r["frame"] for r in results] == [frame for frame, n in found.items() for _ in range(n)]
    gc.collect()


@pytest.mark.slow
def test_two_processes_predict_what_one_does(place: Path, predicted: Path) -> None:
    """Each has its share of the images, and a whole video."""
    clip = place / "clip.mp4"
    (place / "more.mp4").write_bytes(clip.read_bytes())
    command = [
        sys.executable, "-m", "yolo_lightning", "predict", f"--model.weights={place / 'a.pt'}",
        f"--data.predict_source=[{place / 'in'}, {clip}, {place / 'more.mp4'}]", "--data.image_size=64",
        "--data.num_workers=0", "--model.score_threshold=0.6", "--trainer.accelerator=cpu",
        "--trainer.devices=2", f"--runs_dir={place / 'two'}",
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"})
    run = place / "two" / "predict" / "version_0"
    ours = json.loads((run / "predictions.json").read_text())
    alone = json.loads((predicted / "predictions.json").read_text())
    of_clip = [r for r in alone if "frame" in r]
    places = [(r["file_name"], r.get("frame"), r["name"]) for r in ours]
    wanted = [(r["file_name"], r.get("frame"), r["name"]) for r in alone]
    assert places == wanted + [("more.mp4", r["frame"], r["name"]) for r in of_clip]
    assert {path.name for path in (run / "videos").iterdir()} == {"clip.mp4", "more.mp4"}
    assert len({r["image_id"] for r in ours}) == len({place[:2] for place in places})
