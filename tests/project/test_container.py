"""Files of the image, checked with linters, published schemas and each other, without Docker.

What the container starts is in ``test_container_entrypoint.py``; the steps of the Dockerfile are run by
``integration/test_container_root.py``.
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.dockerfile import Stage, read, stages
from tests.support.linters import schema_errors, tool

ROOT = Path(__file__).parents[2]
ENTRY = ROOT / "deploy" / "container" / "entrypoint.sh"
WORKSPACE = "/workspace/yolo-lightning"


def final_stage() -> Stage:
    return stages(read(ROOT / "Dockerfile"))[1][-1]


def values(keyword: str) -> list[str]:
    """Values of all instructions of that name in the final stage."""
    return [instruction.value for instruction in final_stage() if instruction.keyword == keyword]


def lint(text: str) -> subprocess.CompletedProcess[str]:
    command = [tool("hadolint"), "--failure-threshold", "style", "--ignore", "DL3008", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True)


def test_hadolint_finds_nothing() -> None:
    """DL3008 asks for versions of Debian packages, which disappear from its mirrors at the next update."""
    done = lint((ROOT / "Dockerfile").read_text())
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("rm -rf /var/lib/apt/lists/*", "true", "DL3009"),
        ("--no-install-recommends", "", "DL3015"),
        ("WORKDIR /workspace", "WORKDIR workspace", "DL3000"),
        ("USER ${USER_ID}:${GROUP_ID}", "USER root", "DL3002"),
        ("COPY --from=wheel", "COPY --from=wheels", "DL3022"),
        ("install --yes", "install", "DL3014"),
    ],
)
def test_hadolint_finds_what_is_wrong(old: str, new: str, rule: str) -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert old in text
    assert rule in lint(text.replace(old, new)).stdout


def test_the_base_is_one_release_of_pytorch_and_cuda() -> None:
    """The stage that builds the wheel and the stage that installs it have the same base."""
    arguments, found = stages(read(ROOT / "Dockerfile"))
    assert re.fullmatch(r"pytorch/pytorch:2\.\d+\.\d+-cuda\d+\.\d+-cudnn\d+-runtime", arguments["BASE"])
    assert [stage[0].words[0] for stage in found] == ["${BASE}", "${BASE}"]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
    sources = [
        source
        for stage in stages(read(ROOT / "Dockerfile"))[1]
        for instruction in stage
        if instruction.keyword == "COPY" and "from" not in instruction.flags
        for source in instruction.words[:-1]
    ]
    assert len(sources) >= 8
    assert [source for source in sources if not (ROOT / source).exists()] == []
    outside = [s for s in sources if not any(s == name or s.startswith(f"{name}/") for name in allowed)]
    assert outside == []
    assert os.access(ENTRY, os.X_OK)  # COPY keeps the mode


def test_other_files_agree_with_the_image() -> None:
    """Compose, the devcontainer and Kubernetes rely on the image's folders, user and ports."""
    user, ports = "yolo", set(values("EXPOSE")[0].split())
    assert values("WORKDIR")[-1] == WORKSPACE
    assert values("USER")[-1] == "${USER_ID}:${GROUP_ID}" and any(f" {user} " in run for run in values("RUN"))
    assert values("VOLUME") == [f'["{WORKSPACE}/runs"]']
    services = yaml.safe_load(drop_tags(ROOT / "compose.yaml"))["services"]
    targets = {volume.split(":")[1] for service in services.values() for volume in service["volumes"]}
    assert targets == {f"{WORKSPACE}/runs", f"{WORKSPACE}/datasets", f"/home/{user}/.cache"}
    published = {port.split(":")[-1] for service in services.values() for port in service.get("ports", [])}
    assert published == {"6006", "8888"} and published < ports
    assert all(port.startswith("127.0.0.1:") for s in services.values() for port in s.get("ports", []))
    assert services["jupyter"]["environment"]["JUPYTER_ADDRESS"] == "0.0.0.0"  # of the container
    assert services["train"]["ipc"] == "host"
    devcontainer = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert (ROOT / ".devcontainer" / devcontainer["build"]["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert (ROOT / ".devcontainer" / devcontainer["build"]["context"]).resolve() == ROOT
    assert devcontainer["remoteUser"] == user and "--ipc=host" in devcontainer["runArgs"]
    assert set(map(str, devcontainer["forwardPorts"])) < ports
    for manifest in (ROOT / "deploy" / "kubernetes").glob("*.yaml"):
        assert f"workingDir: {WORKSPACE}\n" in manifest.read_text()


def drop_tags(path: Path) -> str:
    """Remove ``!reset``, compose's own tag, which deletes the value of an earlier file."""
    return path.read_text().replace("!reset ", "")


def test_compose_follows_its_published_schema() -> None:
    document = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert schema_errors("compose-spec", document) == []
    breaks: list[Callable[[Any], Any]] = [
        lambda services: services["train"].update(stop_grace="3m"),
        lambda services: services["jupyter"].update(ports=8888),
        lambda services: services["train"]["deploy"]["resources"].update(reservations=["gpu"]),
    ]
    for broken in breaks:
        other = copy.deepcopy(document)
        broken(other["services"])
        assert schema_errors("compose-spec", other) != []


def test_the_file_for_cpus_takes_the_gpus_away() -> None:
    document = yaml.safe_load((ROOT / "compose.yaml").read_text())
    with_gpus = {name for name, service in document["services"].items() if "deploy" in service}
    without = yaml.safe_load(drop_tags(ROOT / "deploy" / "container" / "compose.cpu.yaml"))["services"]
    assert without == {name: {"deploy": None} for name in with_gpus}


@pytest.mark.parametrize(
    "path", [*sorted(ROOT.glob("scripts/*.sh")), *sorted(ROOT.glob("deploy/**/*.sh")), ROOT / ".ci" / "run"],
    ids=lambda path: path.name,
)  # fmt: skip
def test_shellcheck_finds_nothing(path: Path) -> None:
    done = subprocess.run([tool("shellcheck"), path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
