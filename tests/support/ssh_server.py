"""The ssh mode of the container's script, started for real with Debian's server, and a client for it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

SSH_PACKAGES = ("openssh-server", "openssh-client", "libwrap0", "libnss-wrapper")
"""Debian's names: server, client, and what they need that a bare machine may lack."""

NAME = "trainer"
"""Of the user that the server runs as and lets in."""

Start = Callable[..., subprocess.Popen[bytes]]
"""``start(*arguments, user=None, **environment)`` starts the container's script."""

_PROGRAMS = ("sbin/sshd", "bin/ssh", "bin/ssh-keygen", "lib/openssh/sshd-session", "lib/openssh/sshd-auth")
"""Below /usr; the last two are parts of the server from OpenSSH 9.8 and 10.0 on."""


class SshServer:
    """The script's ssh mode on a free port of loopback.

    It runs as an ordinary user, a made up one where root runs the tests; ``libnss-wrapper`` gives that
    user a name and a home.

    Args:
        packages: Folder with :data:`SSH_PACKAGES` unpacked.
        home: Home of the user; everything is kept there.
        start: Starts the script.
    """

    def __init__(self, packages: Path, home: Path, start: Start) -> None:
        self.home, self._start, self._programs = home, start, home / "programs"
        self.user = 65533 if os.getuid() == 0 else os.getuid()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._programs.mkdir()
        for name in _PROGRAMS:
            if (packages / "usr" / name).exists():
                shutil.copy(packages / "usr" / name, self._programs)
        for library in packages.glob("**/lib*.so*"):
            shutil.copy(library, self._programs)
        self.path = f"{self._programs}:{os.environ['PATH']}"
        (home / "passwd").write_text(f"{NAME}:x:{self.user}:{self.user}::{home}:/bin/bash\n")
        (home / "group").write_text(f"{NAME}:x:{self.user}:\n")
        ask = home / "ask"
        ask.write_text(f"#!/bin/sh\ntouch {home}/asked\necho guess\n")
        ask.chmod(0o755)
        self._own()

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start the script as that user."""
        own = {
            "PATH": self.path,
            "LD_LIBRARY_PATH": str(self._programs),
            "LD_PRELOAD": str(next(self._programs.glob("libnss_wrapper.so*"))),
            "NSS_WRAPPER_PASSWD": str(self.home / "passwd"),
            "NSS_WRAPPER_GROUP": str(self.home / "group"),
            "PYTHON": "true",  # it makes the greeting, and lies where only root can read
            "SSHD": str(self._programs / "sshd"),
            "SSH_PORT": str(self.port),
        }
        parts = []
        for name in ("session", "auth"):
            if (part := self._programs / f"sshd-{name}").exists():
                parts += ["-o", f"Sshd{name.title()}Path={part}"]
        self._own()
        user = self.user if os.getuid() == 0 else None
        return self._start("ssh", *parts, user=user, **{**own, **environment})

    def make_key(self, name: str) -> str:
        """A new pair ``home/name`` and ``home/name.pub``; returns the public half."""
        path = self.home / name
        self._run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path))
        return path.with_suffix(".pub").read_text().strip()

    def connect(
        self, key: str | None, command: str = "true", user: str = NAME
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there by the key of that name, or without one by a password if it is asked for."""
        options = ["UserKnownHostsFile=/dev/null", "StrictHostKeyChecking=no", "IdentitiesOnly=yes"]
        if key is None:
            options += ["PubkeyAuthentication=no"]
        else:
            options += [f"IdentityFile={self.home / key}"]
        flags = [word for option in options for word in ("-o", option)]
        return self._run(
            "ssh", "-F", "none", *flags, "-p", str(self.port), f"{user}@127.0.0.1", command, check=False
        )

    def host_key(self) -> str:
        """By which clients know the server."""
        return (self.home / "state" / "yolo-lightning" / "ssh" / "host_key.pub").read_text()

    def _run(self, program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        asking = {"SSH_ASKPASS": str(self.home / "ask"), "SSH_ASKPASS_REQUIRE": "force"}
        return subprocess.run(
            [str(self._programs / program), *arguments], env={**os.environ, **asking}, check=check,
            capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=200,
        )  # fmt: skip

    def _own(self) -> None:
        """What is in the home belongs to its user."""
        if os.getuid() == 0:
            for path in (self.home, *self.home.rglob("*")):
                os.chown(path, self.user, self.user)
