"""deploy/container/entrypoint.sh in each of its modes, with real servers on loopback."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.debian import PackagesMissing, fetch
from tests.support.processes import free_port
from tests.support.ssh_server import SSH_PACKAGES, SshServer, Start

ENTRY = Path(__file__).parents[2] / "deploy" / "container" / "entrypoint.sh"
PATIENCE_S = 200
"""Limit for steps that take seconds on an idle machine."""


@pytest.fixture
def home() -> Iterator[Path]:
    """Home of the container's user; an ordinary user can reach it even if root runs the tests."""
    folder = Path(tempfile.mkdtemp(prefix="container.", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """``start(*arguments, user=None, **environment)`` starts the script, which logs to ``home/log``."""
    started: list[subprocess.Popen[bytes]] = []

    def start_(*arguments: str, user: int | None = None, **environment: str) -> subprocess.Popen[bytes]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")}
        own = {"HOME": str(home), "PYTHON": sys.executable, "XDG_STATE_HOME": str(home / "state")}
        own["XDG_RUNTIME_DIR"] = str(home)
        alone = ["setpriv", "--pdeathsig", "KILL"]  # where the tests are killed, no server stays behind
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(
                [*alone, "bash", str(ENTRY), *arguments], env={**inherited, **own, **environment}, cwd=home,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                user=user, group=user, extra_groups=None if user is None else [],
            )  # fmt: skip
        started.append(process)
        return process

    yield start_
    for process in started:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until_open(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 10).close()
        except OSError:
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)


def answers_on_loopback_alone(port: int) -> bool:
    """Tell if a port of 127.0.0.1 is closed on 127.0.0.2, where a server on all addresses would answer."""
    try:
        socket.create_connection(("127.0.0.2", port), 10).close()
    except ConnectionRefusedError:
        return True
    return False


def refusal(process: subprocess.Popen[bytes], log: Path) -> str:
    assert process.wait(PATIENCE_S) == 2
    return log.read_text()


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def test_a_command_goes_through_as_it_is(start: Start, home: Path) -> None:
    assert start("bash", "-c", 'echo "$1"; exit 75', "-", "two words").wait(PATIENCE_S) == 75
    assert (home / "log").read_text() == "two words\n"  # and no greeting
    assert "did you mean: yolo-lightning fit" in refusal(start("fit", "--help"), home / "log")


@pytest.mark.parametrize("answer", ["echo NVIDIA-SMI 580", "exit 9", None])
def test_the_greeting_names_versions_and_gpus(start: Start, home: Path, answer: str | None) -> None:
    import torch

    (home / "bin").mkdir()
    for name in ("setpriv", "bash", "cat", "id"):
        (home / "bin" / name).symlink_to(shutil.which(name) or name)
    if answer:
        program(home / "bin" / "nvidia-smi", answer)
    assert start("shell", "-c", "echo a shell", PATH=str(home / "bin")).wait(PATIENCE_S) == 0
    said = (home / "log").read_text()
    assert f"torch {torch.__version__.split('+')[0]}" in said and said.endswith("a shell\n")
    wanted = {"exit 9": "does not answer", None: "No GPU is visible"}.get(answer, "NVIDIA-SMI 580")
    assert wanted in said


def test_jupyter_answers_who_has_the_token(start: Start, home: Path) -> None:
    port = free_port()
    server = start(
        "jupyter", *(["--allow-root"] if os.getuid() == 0 else []),
        JUPYTER_PORT=str(port), JUPYTER_TOKEN="",
    )  # fmt: skip
    until_open(port, server, home / "log")
    assert answers_on_loopback_alone(port)
    tokens = re.findall(r"token=([0-9a-f]{48})", (home / "log").read_text())
    assert len(tokens) == 1

    def status(token: str | None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        headers = {"Authorization": f"token {token}"} if token else {}
        connection.request("GET", "/api/contents", headers=headers)
        return connection.getresponse().status

    assert [status(None), status("0" * 48), status(tokens[0])] == [403, 403, 200]
    assert start("health").wait(PATIENCE_S) == 0
    server.terminate()
    server.wait(PATIENCE_S)
    assert f"nothing answers on port {port}" in refusal(start("health"), home / "log")


def test_a_given_token_is_told_to_nobody(start: Start, home: Path) -> None:
    """Jupyter reads it from the environment; every process could see a command line."""
    program(home / "python", 'if [ "$1" = - ]; then exit; fi; echo "$@"; echo "${#JUPYTER_TOKEN} characters"')
    assert start("jupyter", PYTHON=str(home / "python"), JUPYTER_TOKEN="hush-hush").wait(PATIENCE_S) == 0
    said = (home / "log").read_text()
    assert "jupyterlab" in said and "9 characters" in said and "hush" not in said


@pytest.mark.parametrize(
    ("given", "address"), [({}, "127.0.0.1"), ({"JUPYTER_ADDRESS": "0.0.0.0"}, "0.0.0.0")]
)
def test_jupyter_is_open_to_others_only_where_an_address_says_so(
    start: Start, home: Path, given: dict[str, str], address: str
) -> None:
    program(home / "python", 'if [ "$1" = - ]; then exit; fi; echo "$@"')
    assert start("jupyter", PYTHON=str(home / "python"), **given).wait(PATIENCE_S) == 0
    assert f"--ServerApp.ip={address} " in (home / "log").read_text()


@pytest.fixture
def ssh(home: Path, start: Start) -> SshServer:
    """Debian's ssh server; CI fails if it cannot be downloaded, other machines skip."""
    try:
        programs = fetch("ssh", SSH_PACKAGES)
    except PackagesMissing as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    return SshServer(programs, home, start)


def test_ssh_lets_in_a_key_and_nothing_else(ssh: SshServer, home: Path) -> None:
    server = ssh.start(AUTHORIZED_KEYS=ssh.make_key("mine"), OMP_NUM_THREADS="7")
    until_open(ssh.port, server, home / "log")
    assert answers_on_loopback_alone(ssh.port)
    inside = ssh.connect("mine", command="echo $OMP_NUM_THREADS; id -u; echo $PATH")
    assert inside.stdout.splitlines() == ["7", str(ssh.user), ssh.path], inside.stderr
    ssh.make_key("other")
    for refused in (ssh.connect("other"), ssh.connect("mine", user="root"), ssh.connect(None)):
        assert refused.returncode == 255 and "Permission denied (publickey)" in refused.stderr
    assert not (home / "asked").exists()  # for a password
    assert start_again(ssh, server) == ssh.host_key()


def start_again(ssh: SshServer, server: subprocess.Popen[bytes]) -> str:
    """Restart the server with the key in a mounted file, and return the host key from before."""
    before = ssh.host_key()
    server.terminate()
    server.wait(PATIENCE_S)
    server = ssh.start(AUTHORIZED_KEYS_FILE=str(ssh.home / "mine.pub"))
    until_open(ssh.port, server, ssh.home / "log")
    assert ssh.connect("mine", command="true").returncode == 0
    return before


def test_ssh_is_open_to_others_where_an_address_says_so(ssh: SshServer, home: Path) -> None:
    server = ssh.start(AUTHORIZED_KEYS=ssh.make_key("mine"), SSH_ADDRESS="0.0.0.0")
    until_open(ssh.port, server, home / "log")
    assert not answers_on_loopback_alone(ssh.port)


def test_ssh_does_not_start_without_a_key(ssh: SshServer, home: Path) -> None:
    log = home / "log"
    assert "no public key for ssh; mount one" in refusal(ssh.start(), log)
    assert "no public key for ssh; mount one" in refusal(ssh.start(AUTHORIZED_KEYS="secret"), log)
    missing = str(home / "missing")
    assert f"is {missing}, which cannot be read" in refusal(ssh.start(AUTHORIZED_KEYS_FILE=missing), log)


def test_ssh_says_how_to_get_port_22(ssh: SshServer, home: Path) -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if first == 0:
        pytest.skip("every user may listen on every port here")
    log = refusal(ssh.start(SSH_PORT=str(first - 1), AUTHORIZED_KEYS=ssh.make_key("mine")), home / "log")
    assert "--sysctl net.ipv4.ip_unprivileged_port_start=0" in log


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be refused for being root")
def test_ssh_does_not_run_as_root(start: Start, home: Path) -> None:
    assert "start without --user root" in refusal(start("ssh", AUTHORIZED_KEYS="any"), home / "log")
