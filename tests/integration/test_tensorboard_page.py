"""TensorBoard on a run of the command line, opened in a browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser, Locator, LocatorAssertions, Page, expect
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from tests.support.browser import browser as browser

SHARED = Path(__file__).parents[3] / "shared"
BCCD, WEIGHTS = SHARED / "data" / "bccd", SHARED / "weights" / "yolov5n.pt"
EPOCHS = 2
TABS = {"custom_scalars", "images", "pr_curves", "hparams", "text", "graphs"}
PATIENCE_S = 120

pytestmark = pytest.mark.timeout(600)  # the first test waits for a run and for TensorBoard, too


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a run of two epochs on BCCD, where that is at hand, or else on the built-in data."""
    folder = tmp_path_factory.mktemp("tensorboard")
    cli = [sys.executable, "-m", "yolo_lightning"]
    data = ["--data.root=shapes", "--data.image_size=96", "--data.batch_size=8"]
    if BCCD.is_dir() and WEIGHTS.is_file():
        data = [f"--data.root={BCCD}", f"--model.weights={WEIGHTS}", "--data.image_size=160"]
    else:
        size = ["--train_images=16", "--val_images=4", "--image_size=96"]
        subprocess.run([*cli, "synth", "--output", "shapes", *size], cwd=folder, check=True, timeout=200)
    fit = [
        *cli, "fit", *data, "--data.num_workers=0", "--model.compile=false", "--model.channels_last=true",
        "--trainer.precision=32-true", "--trainer.accelerator=cpu", f"--trainer.max_epochs={EPOCHS}",
    ]  # fmt: skip
    subprocess.run(fit, cwd=folder, check=True, timeout=200)
    return folder / "runs" / "fit" / "version_0"


@pytest.fixture(scope="module")
def class_names(run: Path) -> list[str]:
    names: list[str] = yaml.safe_load((run / "config.yaml").read_text())["model"]["class_names"]
    return names


@pytest.fixture(scope="module")
def address(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a TensorBoard that has read the run."""
    log = tmp_path_factory.mktemp("server") / "log.txt"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run), "--host", "127.0.0.1"]
    with log.open("w") as file:
        server = subprocess.Popen([*command, "--port", "0"], stdout=file, stderr=subprocess.STDOUT)
    try:
        yield _address_once_read(log)
    finally:
        server.terminate()
        server.wait(timeout=PATIENCE_S)


def _address_once_read(log: Path) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        time.sleep(0.2)
        found = re.search(r"http://127\.0\.0\.1:\d+/", log.read_text())
        if found is None:
            continue
        with urllib.request.urlopen(f"{found[0]}data/plugins_listing", timeout=PATIENCE_S) as answer:
            plugins = json.load(answer)
        if all(plugins[tab]["enabled"] for tab in TABS):
            return found[0]
    raise AssertionError(f"TensorBoard has not read the run: {log.read_text()}")


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1400, "height": 1000}) as context:
        context.set_default_timeout(1000 * PATIENCE_S)
        yield context.new_page()


def seen(what: Locator) -> LocatorAssertions:
    expect.set_options(timeout=1000 * PATIENCE_S)
    return expect(what)


def test_the_event_file_holds_all_that_is_to_be_seen(run: Path, class_names: list[str]) -> None:
    (file,) = run.glob("events.out.tfevents*")
    found = EventAccumulator(str(file), size_guidance={"tensors": 0, "images": 0}).Reload()
    (layout,) = found.Tensors("custom_scalars__config__")
    learning, fast, gpu = Layout.FromString(layout.tensor_proto.string_val[0]).category
    assert (learning.title, fast.title, gpu.title) == ("is it learning?", "is it fast?", "is the GPU well?")
    scalars = found.Tags()["scalars"]
    together = {chart.title: chart.multiline.tag for chart in (*learning.chart, *fast.chart)}
    matched = {
        title: {s for s in scalars for t in tags if re.match(t, s)} for title, tags in together.items()
    }
    assert matched["box loss"] == {"train/box_loss", "val/box_loss"}
    assert matched["mean average precision"] == {"val/map", "val/map_50", "val/map_75"}
    assert [title for title, tags in matched.items() if not tags] == []  # no chart of these is empty
    steps = [event.step for event in found.Scalars("val/map")]
    assert len(steps) == EPOCHS
    for name in class_names:
        if f"val/map_class/{name}" in scalars:
            assert [event.step for event in found.Tensors(f"pr/{name}")] == steps
    images = {
        "curves/precision_recall", "curves/f1", "curves/confusion",
        "pictures/labels", "pictures/augmented", "pictures/predictions",
    }  # fmt: skip
    assert images <= set(found.Tags()["images"])
    assert found.Images("curves/confusion")[-1].step == steps[-1]
    assert {"_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info"} <= set(
        found.PluginTagToContent("hparams")
    )
    assert "best/map" in scalars
    text = found.Tensors("run/config.yaml/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text == f"```yaml\n{(run / 'config.yaml').read_text().rstrip()}\n```"
    assert found.Graph()


def test_the_first_screen_answers_three_questions(page: Page, address: str) -> None:
    page.goto(f"{address}#custom_scalars")
    for title in ("is it learning?", "box loss", "mean average precision", "is it fast?", "is the GPU well?"):
        seen(page.get_by_text(title, exact=True).first).to_be_visible()
    seen(page.get_by_text("Matches (2)").first).to_be_visible()  # losses of training and validation together
    seen(page.get_by_text("Matches (3)").first).to_be_visible()


def test_images_are_on_the_page(page: Page, address: str) -> None:
    for tag in ("curves/confusion", "pictures/predictions"):
        page.goto("about:blank")  # a change of the fragment alone would not be read
        page.goto(f"{address}#images&tagFilter={tag.replace('/', '%2F')}")
        seen(page.get_by_text(tag, exact=True).first).to_be_visible()
        page.wait_for_function(
            """() => {
                const inside = (root) => [...root.querySelectorAll("*")].flatMap(
                    (e) => [e, ...(e.shadowRoot ? inside(e.shadowRoot) : [])]);
                return inside(document).some((e) => e.tagName === "IMG" && e.naturalWidth > 300);
            }"""
        )


def test_pr_curves_of_the_classes_are_on_the_page(page: Page, address: str, class_names: list[str]) -> None:
    page.goto(f"{address}#pr_curves")
    seen(page.get_by_text("tag: pr/all classes together").first).to_be_visible()
    seen(page.get_by_text(f"tag: pr/{class_names[0]}").first).to_be_visible()
    # Below a curve that has been fetched.
    seen(page.locator(".step-label-text", has_text=re.compile(r"step \d+")).first).to_be_visible()


def test_hyper_parameters_stand_beside_the_metrics(page: Page, address: str) -> None:
    page.goto(f"{address}#hparams")
    seen(page.get_by_text("yolov5n", exact=True).first).to_be_visible()
    seen(page.get_by_text("val/map", exact=True).first).to_be_visible()
    seen(page.get_by_text("optimizer.learning_rate", exact=True).first).to_be_visible()


def test_the_configuration_and_the_graph_are_on_the_page(page: Page, address: str) -> None:
    page.goto(f"{address}#text")
    seen(page.get_by_text("tag: run/config.yaml/text_summary").first).to_be_visible()
    seen(page.get_by_text("seed_everything: 0").first).to_be_visible()
    page.goto("about:blank")
    page.goto(f"{address}#graphs")
    seen(page.get_by_text("DetectionNetwork").first).to_be_attached()
