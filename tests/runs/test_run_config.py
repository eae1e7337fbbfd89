"""Runs of a stranger: what their ``config.yaml`` says runs nothing, and moves no file."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.cli import LightningArgumentParser

from tests.support.fit_parser import fit_parser as fit_parser
from yolo_lightning.__main__ import main
from yolo_lightning.errors import InputError
from yolo_lightning.runs.directory import with_run_config
from yolo_lightning.runs.run_config import GROUPS, OBJECTS, run_options

EVIL = {"class_path": "evilmodule.Evil"}


@pytest.fixture(autouse=True)
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that exists when the module ``evilmodule`` was imported; and files that name it, here."""
    marker = tmp_path / "it_ran"
    (tmp_path / "evilmodule.py").write_text(
        f"from lightning.pytorch.callbacks import Callback\nopen({str(marker)!r}, 'w')\n"
        "class Evil(Callback):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)  # type: ignore[no-untyped-call]
    monkeypatch.chdir(tmp_path)
    for name in ("evil.yaml", "evil"):
        (tmp_path / name).write_text(yaml.safe_dump(EVIL))
    yield marker
    sys.modules.pop("evilmodule", None)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "runs" / "fit" / "version_0")


def make_run(run: Path, config: Any = None) -> Path:
    (run / "checkpoints").mkdir(parents=True, exist_ok=True)
    (run / "checkpoints" / "best.ckpt").write_text("")
    text = config if isinstance(config, str) else yaml.safe_dump(config or {}, sort_keys=False)
    (run / "config.yaml").write_text(text)
    return run


def options(run: Path, *given: str) -> dict[str, Any]:
    """Options of the run that are used beside those given."""
    argv = with_run_config(["fit", "--ckpt_path", str(run / "checkpoints/best.ckpt"), *given])
    found = yaml.safe_load(argv[argv.index("--config") + 1])
    assert isinstance(found, dict)
    return found


HOSTILE: dict[str, Any] = {
    "a class": {"trainer": {"callbacks": [EVIL]}},
    "a class without a list": {"trainer": {"callbacks": EVIL}},
    "a name": {"trainer": {"callbacks": "evilmodule.Evil"}},
    "a name in a list": {"trainer": {"callbacks": ["evilmodule.Evil"]}},
    "a file": {"trainer": {"callbacks": "evil.yaml"}},
    "a file without ending": {"trainer": {"callbacks": "evil"}},
    "a nested class": {
        "trainer": {
            "callbacks": {
                "class_path": "lightning.pytorch.callbacks.EarlyStopping",
                "init_args": {"monitor": EVIL},
            }
        }
    },
    "other arguments": {
        "trainer": {
            "callbacks": {"class_path": "lightning.pytorch.callbacks.Timer", "dict_kwargs": {"a": EVIL}}
        }
    },
    "a function": {
        "trainer": {
            "callbacks": {
                "class_path": "lightning.pytorch.callbacks.LambdaCallback",
                "init_args": {"setup": "evilmodule.Evil"},
            }
        }
    },
    "a class behind a name": {
        "trainer": {"callbacks": {"class_path": "lightning.pytorch.callbacks.EarlyStopping.evilmodule.Evil"}}
    },
    "a logger": {"trainer": {"logger": EVIL}},
    "a logger that uploads": {
        "trainer": {
            "logger": {
                "class_path": "lightning.pytorch.loggers.MLFlowLogger",
                "init_args": {"tracking_uri": "http://198.51.100.1"},
            }
        }
    },
    "loggers": {"trainer": {"logger": [True, EVIL]}},
    "a profiler": {"trainer": {"profiler": "evilmodule.Evil"}},
    "a plugin": {"trainer": {"plugins": ["evilmodule.Evil"]}},
    "a strategy": {"trainer": {"strategy": EVIL}},
    "an accelerator": {"trainer": {"accelerator": "evilmodule.Evil"}},
    "an argument of a strategy": {
        "trainer": {
            "strategy": {
                "class_path": "lightning.pytorch.strategies.DDPStrategy",
                "init_args": {"ddp_comm_hook": "evilmodule.Evil"},
            }
        }
    },
    "a dataclass": {"model": {"optimizer": EVIL}},
    "an inner value": {"model": {"class_names": [EVIL]}},
    "a file of a group": {"trainer": "evil.yaml"},
    "a file of a dataclass": {"model": {"optimizer": "evil.yaml"}},
    "a class of a group": {"data": {**EVIL, "init_args": {}}},
    "a path of jsonargparse": {"trainer": {"__path__": "evil.yaml"}},
    "a dotted key": {"trainer.callbacks": "evilmodule.Evil"},
    "a dotted key in a group": {"trainer": {"callbacks.class_path": "evilmodule.Evil"}},
    "a key that appends": {"trainer": {"callbacks+": "evilmodule.Evil"}},
    "a key that is no name": {"trainer": {7: "evilmodule.Evil"}},
    "a key that is nothing": {"trainer": {None: "evilmodule.Evil"}},
    "a YAML tag": "trainer: !!python/object/apply:os.system ['touch it_ran']",
    "an alias bomb": "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]",
    "a list": "[1, 2]",
    "a text": "evil.yaml",
    "bytes": "\x00",
    "nesting": "[" * 1500,
}


@pytest.mark.parametrize("command", ["fit", "validate", "doctor"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_configuration_is_refused_by_name(
    name: str, command: str, run: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(run, HOSTILE[name])
    with pytest.raises(SystemExit) as exit_:
        main([command, "--ckpt_path", str(run / "checkpoints" / "best.ckpt")])
    assert exit_.value.code == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {run / 'config.yaml'}: ")
    assert "--trust_config" in line or "restore the file" in line
    assert not marker.exists()


@pytest.mark.parametrize("flag", [["--trust_config"], ["--trust_config=true"], ["--trust_config", "true"]])
def test_a_trusted_configuration_is_used_whole(flag: list[str], run: Path) -> None:
    make_run(run, HOSTILE["a class"])
    argv = ["fit", "--ckpt_path", str(run / "checkpoints/best.ckpt"), *flag, "--trainer.max_epochs=2"]
    assert with_run_config(argv)[1:3] == ["--config", str(run / "config.yaml")]


@pytest.mark.parametrize("flag", [["--trust_config=false"], ["--no_trust_config"], ["--trust_config", "no"]])
def test_no_trust_is_no_trust(flag: list[str], run: Path) -> None:
    make_run(run, {**HOSTILE["a class"], "trust_config": True})
    with pytest.raises(InputError, match=r"trainer\.callbacks is 'evilmodule\.Evil'"):
        options(run, *flag)


def test_what_the_command_line_gives_is_not_taken_from_the_run(run: Path, tmp_path: Path) -> None:
    other = {"class_path": "lightning.pytorch.callbacks.DeviceStatsMonitor"}
    make_run(run, {"trainer": {"callbacks": [EVIL, other], "max_epochs": 3}})
    assert options(run, "--trainer.callbacks=null") == {"trainer": {"max_epochs": 3}}
    assert options(run, "--trainer.callbacks+=evilmodule.Evil")["trainer"]["callbacks"] == [other]
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump({"trainer": {"callbacks": [EVIL]}}))
    assert options(run, "--config", str(mine))["trainer"]["callbacks"] == [other]
    assert options(run, f"--trainer={mine}")["trainer"]["callbacks"] == [other]


def test_a_configuration_that_is_a_link_is_not_read(run: Path, tmp_path: Path) -> None:
    make_run(run, {"trainer": {"max_epochs": 3}})
    (run / "config.yaml").rename(tmp_path / "mine.yaml")
    (run / "config.yaml").symlink_to(tmp_path / "mine.yaml")
    with pytest.raises(InputError, match=r"config\.yaml: cannot be read without following links"):
        options(run)


def test_directories_are_those_of_the_command_line_or_the_run(run: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    stranger = {"runs_dir": str(home), "run_name": "../../x", "trainer": {"default_root_dir": str(home)}}
    assert options(make_run(run, stranger)) == {"trainer": {}}
    assert options(make_run(run, {"runs_dir": str(tmp_path / "runs"), "run_name": None})) == {
        "runs_dir": str(tmp_path / "runs"), "run_name": None,
    }  # fmt: skip
    (run / "link").symlink_to(tmp_path)
    for kind, name in (("callbacks.ModelCheckpoint", "dirpath"), ("loggers.CSVLogger", "save_dir")):
        for folder in (str(home), "logs", "~/logs", "local:///home", f"{run}/../x", str(run / "link" / "x")):
            value = {"class_path": f"lightning.pytorch.{kind}", "init_args": {name: folder}}
            key = kind.partition(".")[0].replace("loggers", "logger")
            with pytest.raises(InputError, match=rf"{name} is .*--trust_config"):
                options(make_run(run, {"trainer": {key: value}}))
        own = value | {"init_args": {name: str(run / "own")}}
        assert options(make_run(run, {"trainer": {key: own}}))["trainer"] == {key: own}
    for name, text in (("filename", "../../x"), ("filename", "/x"), ("name", "~x"), ("version", "a://b")):
        value = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {name: text}}
        with pytest.raises(InputError, match=name):
            options(make_run(run, {"trainer": {"logger": value}}))


def test_groups_and_objects_are_those_of_the_parser(fit_parser: LightningArgumentParser) -> None:
    keys = [action.dest for action in fit_parser._actions if "." in action.dest]
    groups = set(GROUPS[""]) | {f"model.{name}" for name in GROUPS["model."]}
    assert {key.rpartition(".")[0] for key in keys} == groups | {f"trainer.{name}" for name in OBJECTS}


def test_no_option_imports_what_it_names(
    fit_parser: LightningArgumentParser, run: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parsed = 0
    for key in {action.dest for action in fit_parser._actions} - {"help", "print_config"}:
        for value in (
            "evilmodule.Evil",
            "evilmodule",
            "evil",
            "evil.yaml",
            str(Path("evil.yaml").absolute()),
        ):
            *groups, name = key.split(".")
            config: Any = {name: value}
            for group in reversed(groups):
                config = {group: config}
            make_run(run, config)
            try:
                text = run_options(run, [])
            except InputError:
                continue
            parsed += 1
            try:
                fit_parser.parse_args(["--config", text])
            except SystemExit:  # refused for its type
                capsys.readouterr()
            assert not marker.exists(), (key, value)
    assert parsed > 100
    with pytest.raises(SystemExit):  # the parser itself does import
        fit_parser.parse_args(["--trainer.callbacks=evilmodule.Evil", "--trainer.max_epochs=x"])
    assert marker.exists()


def test_a_run_with_classes_of_lightning_is_read_as_it_was(
    fit_parser: LightningArgumentParser, run: Path
) -> None:
    given = [
        "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/map",
        "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.filename={epoch}-{val/map:.3f}",
        "--trainer.strategy=ddp", "--trainer.max_time=00:01:00:00", "--data.root=~/data",
        "--model.class_names=[a.b, 'yes', '1']",
    ]  # fmt: skip
    config = fit_parser.parse_args(given)
    make_run(run, fit_parser.dump(config, skip_none=False, skip_validation=True))
    again = fit_parser.parse_args(["--config", run_options(run, [])])
    expected = config.clone()
    del expected["runs_dir"], expected["run_name"], expected["config"]
    for name in ("runs_dir", "run_name", "config"):
        del again[name]
    assert again == expected


def test_checkpoints_behind_a_link_are_not_replaced(run: Path, tmp_path: Path) -> None:
    """A run that resumes writes beside the checkpoint; a stranger's link would lead it into any folder."""
    (run / "checkpoints").rename(tmp_path / "precious")
    (run / "checkpoints").symlink_to(tmp_path / "precious")
    checkpoint = str(run / "checkpoints/best.ckpt")
    with pytest.raises(InputError, match=rf"^{run}/checkpoints: is a link to {tmp_path}/precious, where"):
        with_run_config(["fit", "--ckpt_path", checkpoint])
    with_run_config(["fit", "--ckpt_path", checkpoint, "--trust_config", "true"])
    with_run_config(["validate", "--ckpt_path", checkpoint])
