from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from yolo_lightning.model.network import build_network
from yolo_lightning.monitoring.tensorboard.layout import (
    METRICS,
    Dashboard,
    empty_copy,
    hyper_parameters,
    layout,
    write_graph,
)
from yolo_lightning.system.background import BackgroundQueue
from yolo_lightning.training.contracts import TrainsDetections
from yolo_lightning.training.module import YOLOv5


class Strided(nn.Module):
    strides = (8, 16)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 8, 8)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.layer(images)]


class Untraceable(Strided):
    def forward(self, images: Tensor) -> list[Tensor]:
        raise RuntimeError("this network\ncannot be traced")


class Logged(LightningModule, TrainsDetections):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.weights = "weights/yolov5n.pt"
        self.criterion: Any = SimpleNamespace(parts=())
        self.save_hyperparameters({"architecture": "yolov5n", "seed": 3, "optimizer": {"name": "sgd"}})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        loss = sum(p.square().sum() for p in self.network.parameters()) + batch.sum()
        return torch.as_tensor(loss)

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        self.log("val/map", 0.5)


class WritesConfig(Callback):
    """As the command line does: at the start of training, after all that were given."""

    def __init__(self, folder: Path, text: str) -> None:
        self.folder, self.text = folder, text

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (self.folder / "config.yaml").write_text(self.text)


def fit(
    folder: Path, network: nn.Module | None = None, epochs: int = 1, logger: Any = None, **options: Any
) -> Trainer:
    ckpt_path, config = options.pop("ckpt_path", None), options.pop("config", "model:\n  seed: 3\n")
    logger = logger or TensorBoardLogger(folder, "", "", default_hp_metric=False)
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=epochs, logger=logger,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        callbacks=[Dashboard(folder, **options), WritesConfig(folder, config)],
    )  # fmt: skip
    loader = DataLoader(torch.zeros(4, 1), batch_size=2)  # type: ignore[arg-type]
    folder.mkdir(exist_ok=True)
    trainer.fit(Logged(network or Strided()), loader, loader, ckpt_path=ckpt_path)
    return trainer


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0}).Reload()


def hparams_of(found: EventAccumulator, tag: str) -> HParamsPluginData:
    return HParamsPluginData.FromString(found.SummaryMetadata(tag).plugin_data.content)


def test_the_layout_asks_three_questions_and_holds_the_tags_that_are_logged(tmp_path: Path) -> None:
    fit(tmp_path)
    found = events(tmp_path)
    (event,) = found.Tensors("custom_scalars__config__")
    shown = Layout.FromString(event.tensor_proto.string_val[0])
    assert [c.title for c in shown.category] == ["is it learning?", "is it fast?", "is the GPU well?"]
    assert "mean average precision" in [chart.title for chart in shown.category[0].chart]


@pytest.mark.parametrize(
    ("tags", "category", "title"),
    [
        (["train/box_loss", "val/box_loss"], "is it learning?", "box loss"),
        (["train/obj_loss", "val/obj_loss"], "is it learning?", "objectness loss"),
        (["val/map", "val/map_50", "val/map_75"], "is it learning?", "mean average precision"),
        (["val/map_class/cat", "val/map_class/dog"], "is it learning?", "mean average precision by class"),
        (["val/loss"], "is it learning?", "loss, all parts"),
        (["perf/images_per_second"], "is it fast?", "images a second"),
        (["gpu/temperature_c", "gpu/0/temperature_c"], "is the GPU well?", "temperature, °C"),
    ],
)
def test_a_tag_is_in_one_chart(tags: list[str], category: str, title: str) -> None:
    charts = layout(("box", "obj", "cls"))
    for tag in tags:
        # As TensorBoard matches: from the start of a tag.
        found = [
            (question, name)
            for question, titles in charts.items()
            for name, (kind, patterns) in titles.items()
            if kind == "Multiline" and any(re.match(pattern, tag) for pattern in patterns)
        ]
        assert found == [(category, title)]


def test_files_of_the_run_are_texts_as_they_are_when_training_begins(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("of: before\n")
    (tmp_path / "environment.json").write_text('{"python": "3.11"}')
    trainer = fit(tmp_path)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    fit(tmp_path, epochs=2, ckpt_path=tmp_path / "one.ckpt", config="seed: 4\n")
    found = events(tmp_path)
    texts = found.Tensors("run/config.yaml/text_summary")
    shown = [(text.step, text.tensor_proto.string_val[0].decode()) for text in texts]
    assert shown == [(0, "```yaml\nmodel:\n  seed: 3\n```"), (2, "```yaml\nseed: 4\n```")]
    assert found.SummaryMetadata("run/config.yaml/text_summary").plugin_data.plugin_name == "text"
    environment = found.Tensors("run/environment.json/text_summary")[0].tensor_proto.string_val[0]
    assert environment.decode() == '```json\n{"python": "3.11"}\n```'


def test_hyper_parameters_stand_in_the_event_file_of_the_scalars(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({"best": {"val/map": 0.75, "val/map_50": None}}))
    fit(tmp_path)
    assert len([*tmp_path.rglob("events.out.tfevents*")]) == 1
    found = events(tmp_path)
    started = hparams_of(found, "_hparams_/session_start_info").session_start_info.hparams
    assert started["architecture"].string_value == "yolov5n"
    assert started["weights"].string_value == "yolov5n.pt"
    assert (started["seed"].number_value, started["epochs"].number_value) == (3, 1)
    assert started["optimizer.name"].string_value == "sgd"
    experiment = hparams_of(found, "_hparams_/experiment").experiment
    assert [metric.name.tag for metric in experiment.metric_infos] == list(METRICS)
    assert {info.name for info in experiment.hparam_infos} == set(started)
    ended = hparams_of(found, "_hparams_/session_end_info").session_end_info
    assert ended.status == 1  # success
    assert [event.value for event in found.Scalars("best/map")] == [0.75]
    assert "best/map_50" not in found.Tags()["scalars"]


@pytest.mark.parametrize("summary", [None, '{"best": {"epoch": 0, "val/map": null}}'])
def test_without_a_summary_there_is_no_best(tmp_path: Path, summary: str | None) -> None:
    if summary is not None:
        (tmp_path / "summary.json").write_text(summary)
    fit(tmp_path, graph=False)
    assert "best/map" not in events(tmp_path).Tags()["scalars"]


@pytest.mark.parametrize("text", ["{", "[]", '{"best": 3}', '{"best": {"val/map": "high"}}', "\x80", None])
def test_a_strange_summary_ends_no_training(tmp_path: Path, text: str | None) -> None:
    """It was left by another run; the recorder replaces it after this callback."""
    if text is None:
        (tmp_path / "file").write_text('{"best": {"val/map": 0.5}}')
        (tmp_path / "summary.json").symlink_to(tmp_path / "file")
    else:
        (tmp_path / "summary.json").write_bytes(text.encode("latin-1"))
    with pytest.warns(UserWarning, match=r"will not show the best epoch: .*summary\.json: cannot be read"):
        fit(tmp_path, graph=False)
    assert "best/map" not in events(tmp_path).Tags()["scalars"]


def test_a_text_that_another_run_left_is_no_file_of_others(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "environment.json").symlink_to(tmp_path / "secret")
    fit(tmp_path, graph=False)
    assert "run/environment.json/text_summary" not in events(tmp_path).Tags()["tensors"]


def test_hyper_parameters_of_the_module_and_its_data() -> None:
    module = YOLOv5(architecture="yolov5s", seed=5)
    trainer = Trainer(accelerator="cpu", devices=1, max_epochs=7, logger=False, enable_checkpointing=False)

    class Data:
        batch_size, image_size = 8, 320

    trainer.datamodule = Data()  # type: ignore[attr-defined]
    found = hyper_parameters(trainer, module)
    assert found["weights"] == "none"
    assert (found["batch_size"], found["image_size"], found["epochs"]) == (8, 320, 7)
    assert (found["optimizer.learning_rate"], found["augmentation.mosaic"], found["seed"]) == (0.01, 1.0, 5)
    assert found["precision"] == "32-true"


def test_the_graph_is_that_of_the_network(tmp_path: Path) -> None:
    network = build_network("yolov5n", 3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    with warnings.catch_warnings(record=True) as caught, SummaryWriter(tmp_path) as writer:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ResourceWarning)  # of others, whenever they are collected
        queue = BackgroundQueue()
        queue.submit(write_graph, writer, network)
        queue.drain()
    assert [str(warning.message) for warning in caught] == []
    graph = GraphDef.FromString(events(tmp_path).Graph().SerializeToString())
    names = [node.name for node in graph.node]
    assert any("Conv2d" in name or "conv" in name for name in names)
    assert any("AnchorHead" in name for name in names)
    assert {name.split("/")[0] for name in names} == {"DetectionNetwork", "input", "output"}
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_resumed_run_does_not_show_the_graph_again(tmp_path: Path) -> None:
    trainer = fit(tmp_path)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    assert events(tmp_path).Graph()
    later = tmp_path / "later"
    fit(later, epochs=2, ckpt_path=tmp_path / "one.ckpt")
    with pytest.raises(ValueError, match="no graph"):
        events(later).Graph()


@pytest.mark.parametrize("network", [Untraceable(), nn.Linear(1, 1)])
def test_a_network_that_cannot_be_traced_is_one_warning(
    network: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(tmp_path, network)
    lines = [str(w.message) for w in caught if "graph of the network" in str(w.message)]
    assert len(lines) == 1
    assert lines[0].endswith("training continues")
    assert "\n" not in lines[0]
    assert "No graph saved" not in capsys.readouterr().out
    assert "val/map" in events(tmp_path).Tags()["scalars"]


def test_an_empty_copy_shares_nothing_and_keeps_the_shapes() -> None:
    network = build_network("yolov5n", 3).to(memory_format=torch.channels_last)
    copied = empty_copy(network)
    assert not copied.training and network.training
    own = {value.data_ptr() for value in network.state_dict().values()}
    for name, value in copied.state_dict().items():
        assert value.shape == network.state_dict()[name].shape
        assert value.data_ptr() not in own
        assert not value.any()


def test_the_graph_of_a_network_on_another_device_copies_no_weight_there() -> None:
    network = build_network("yolov5n", 3).to("meta")  # as a GPU; its values cannot be copied to the CPU
    assert {value.device.type for value in empty_copy(network).state_dict().values()} == {"cpu"}


def test_other_ranks_and_other_loggers_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(tmp_path, logger=CSVLogger(tmp_path, "", ""))
    assert [*tmp_path.rglob("events.out.tfevents*")] == []
    columns = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    assert sorted(columns.split(",")) == ["epoch", "step", "val/map"]
    monkeypatch.setattr(Trainer, "is_global_zero", property(lambda _: False))
    fit(tmp_path)
    assert "custom_scalars__config__" not in events(tmp_path).Tags()["tensors"]
