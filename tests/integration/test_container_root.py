"""The Dockerfile's own steps, run in a clean root that debootstrap made, and the image's user training in it.

In the place of the base image stands Debian with what makes up that base: Python, pip, and PyTorch, which is
not downloaded again: its files are those of the tests' own environment, mounted read-only where the base has
them. So the root needs the release of Debian with the same Python as the tests. Every mount lives in a
namespace of the processes that use it, and is gone with them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.debian import fetch, writable_folder
from tests.support.dockerfile import Instruction, expand, read, stages

ROOT = Path(__file__).parents[2]
CI = os.environ.get("CI") == "true"
SUITES = {(3, 11): "bookworm", (3, 13): "trixie"}
"""Debian's releases by their Python."""
OF_BASE = ("torch", "torchvision")
WORKSPACE = "/workspace/yolo-lightning"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.getuid() != 0, reason="only root can mount and change the root"),
    pytest.mark.skipif(sys.version_info[:2] not in SUITES, reason="no release of Debian has this Python"),
]

_MOUNTS = """
set -e
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
mount -t tmpfs tmpfs "$ROOT/dev/shm"
for from in "$ROOT"/opt/base/*.from; do
    mount --bind "$(cat "$from")" "${from%.from}"
    mount -o remount,bind,ro "${from%.from}"
done
mount --bind "$DEBS" "$ROOT/var/cache/apt/archives"
exec chroot --userspec="$OWNER" "$ROOT" "$@"
"""


class Image:
    """A root folder in which the instructions of a Dockerfile are carried out.

    Args:
        root: Folder with the base's files.
        debs: Folder in which apt keeps what it downloads.
    """

    def __init__(self, root: Path, debs: Path) -> None:
        self.root, self.debs = root, debs
        self.environment: dict[str, str] = {}
        self.user, self.folder = "0:0", "/"

    def build(self, arguments: dict[str, str]) -> None:
        """All stages, one after the other in the one root."""
        _, found = stages(read(ROOT / "Dockerfile"))
        for stage in found:
            self.environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
            self.user, self.folder = "0:0", "/"
            for instruction in stage[1:]:
                self._carry_out(instruction, arguments)

    def run(self, *command: str, network: str = "", timeout_s: float = 300, **environment: str) -> str:
        """What a command prints as the user and in the folder of the last instructions.

        Args:
            command: Program and arguments.
            network: A script that is run beforehand in a network of its own, without any other machine.
            timeout_s: After which it is ended, with all that it started.
            environment: Variables besides the image's.

        Raises:
            AssertionError: It failed; tells the end of what it printed.
        """
        home = "/root" if self.user == "0:0" else "/home/yolo"
        variables = {"HOME": home, **self.environment, **environment}
        inside = ["env", "-i", *(f"{name}={value}" for name, value in variables.items())]
        inside += ["sh", "-c", 'cd "$0" && exec "$@"', self.folder, *command]
        own = ["--mount", "--pid", "--fork", "--kill-child", *(["--net"] if network else [])]
        done = subprocess.run(
            ["unshare", *own, "bash", "-c", network + _MOUNTS, "-", *inside],
            env={**os.environ, "ROOT": str(self.root), "DEBS": str(self.debs), "OWNER": self.user},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=timeout_s,
        )  # fmt: skip
        assert done.returncode == 0, f"{shlex.join(command)}: {done.returncode}, {done.stdout[-3000:]}"
        return done.stdout

    def _carry_out(self, instruction: Instruction, arguments: dict[str, str]) -> None:
        match instruction.keyword:
            case "ARG":
                name, _, default = instruction.value.partition("=")
                self.environment[name] = arguments.get(name, default)
            case "ENV":
                for word in instruction.words:
                    name, _, value = word.partition("=")
                    self.environment[name] = expand(value, self.environment)
            case "WORKDIR":
                self.folder = instruction.value
                self._inside(self.folder).mkdir(parents=True, exist_ok=True)
            case "USER":
                self.user = expand(instruction.value, self.environment)
            case "COPY":
                self._copy(instruction)
            case "RUN":
                self.run("sh", "-c", instruction.value, **_for_installation(self.root))
            case "EXPOSE" | "VOLUME" | "HEALTHCHECK" | "ENTRYPOINT" | "CMD":
                pass
            case other:
                raise NotImplementedError(f"{other} in the Dockerfile")

    def _copy(self, instruction: Instruction) -> None:
        *sources, target = instruction.words
        inside = self._inside(target)
        inside.parent.mkdir(parents=True, exist_ok=True)
        for source in sources:
            path = self._inside(source) if "from" in instruction.flags else ROOT / source
            if path.is_file():
                shutil.copy(path, inside)
                continue
            ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
            shutil.copytree(path, inside, ignore=ignored, dirs_exist_ok=True)
            if owner := instruction.flags.get("chown"):
                subprocess.run(["chroot", self.root, "chown", "-R", owner, self._path(target)], check=True)

    def _path(self, path: str) -> Path:
        return Path(self.folder) / path

    def _inside(self, path: str) -> Path:
        return self.root / self._path(path).relative_to("/")


def _for_installation(root: Path) -> dict[str, str]:
    """How this machine's pip reaches the registry, where that is not as everywhere; it compiles nothing."""
    passed = {name: os.environ[name] for name in os.environ if name.endswith("_proxy")}
    passed["PIP_COMPILE"] = "0"  # most of what is installed is not imported here
    if (root / "opt" / "certificates.crt").exists():
        passed["PIP_CERT"] = "/opt/certificates.crt"
    return passed


def make_base(root: Path, programs: Path, debs: Path) -> None:
    """What stands for the base image: Debian, Python with pip, PyTorch, and Ubuntu's user."""
    subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", programs / "usr" / "sbin" / "debootstrap",
         "--variant=minbase", "--include=python3,python3-pip,python-is-python3", f"--cache-dir={debs}",
         f"--keyring={programs}/usr/share/keyrings/debian-archive-keyring.gpg",
         SUITES[sys.version_info[:2]], root],
        env={
            **os.environ,
            "DEBOOTSTRAP_DIR": str(programs / "usr" / "share" / "debootstrap"),
            "DPKG_FORCE": "unsafe-io",  # packages are not flushed to the disk one by one
        },
        check=True, stdin=subprocess.DEVNULL, timeout=240,
    )  # fmt: skip
    # As in Docker's own base images.
    (root / "etc" / "dpkg" / "dpkg.cfg.d" / "unsafe").write_text("force-unsafe-io\n")
    services = root / "usr" / "sbin" / "policy-rc.d"
    services.write_text("#!/bin/sh\nexit 101\n")  # and nothing is started by being installed
    services.chmod(0o755)
    shutil.copy("/etc/hosts", root / "etc" / "hosts")
    certificates = Path(os.environ.get("PIP_CERT") or "/etc/ssl/certs/ca-certificates.crt")
    if certificates.exists():
        shutil.copy(certificates, root / "opt" / "certificates.crt")
    subprocess.run(["chroot", root, "useradd", "--uid", "1000", "--create-home", "ubuntu"], check=True)
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    link_packages(root, root / "usr" / "local" / "lib" / python / "dist-packages")


def link_packages(root: Path, site: Path) -> None:
    """Links to the files of PyTorch and all that it requires, and where they are to be mounted."""
    site.mkdir(parents=True, exist_ok=True)
    folders: dict[Path, str] = {}
    for package in closure(OF_BASE):
        origin = Path(str(package.locate_file("")))
        mounted = folders.setdefault(origin, f"/opt/base/{len(folders)}")
        for name in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            if not (site / name).is_symlink():  # the parts of a namespace lie together
                (site / name).symlink_to(f"{mounted}/{name}")
    for origin, mounted in folders.items():
        (root / mounted.lstrip("/")).mkdir(parents=True)
        (root / f"{mounted}.from".lstrip("/")).write_text(str(origin))


def closure(names: tuple[str, ...]) -> list[Distribution]:
    """The installed packages of these names, and those that they require."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = distribution(name)
        requirements = map(Requirement, found[name].requires or ())
        waiting += [r.name for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return list(found.values())


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """The image, as built with default arguments; its files are gone after the tests."""
    if not CI and subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("this root may not mount")
    folder = Path(tempfile.mkdtemp(prefix="image."))
    try:
        debs = writable_folder() / "debs"
        (debs / "partial").mkdir(parents=True, exist_ok=True)
        programs = fetch("debootstrap", ("debootstrap", "debian-archive-keyring"))
        make_base(folder / "root", programs, debs)
        built = Image(folder / "root", debs)
        built.build({})
        yield built
    finally:
        shutil.rmtree(folder)


def test_the_base_is_kept_and_the_rest_is_installed_beside_it(image: Image) -> None:
    import torch

    code = "import cv2, torch, torchvision, yolo_lightning as own; print(torch.__version__, torch.__file__)"
    version, base, own = image.run("python", "-c", f"{code}; print(own.__file__)").split()[-3:]
    assert version == torch.__version__ and base.startswith("/usr/local/lib/python3")
    assert own.startswith("/opt/yolo-lightning/lib/")
    assert [*image.root.glob("opt/yolo-lightning/lib/*/site-packages/torch*-*.dist-info")] == [
        *image.root.glob("opt/yolo-lightning/lib/*/site-packages/torchmetrics-*.dist-info")
    ]


def test_what_is_installed_is_what_is_locked_and_the_sbom_lists_it(image: Image) -> None:
    printed = image.run("python", "-m", "pip", "list", "--format=json", "--path", *site_packages(image))
    installed = {package["name"]: package["version"] for package in json.loads(printed.splitlines()[0])}
    locked = (ROOT / "requirements" / "image.txt").read_text()
    unlocked = {n for n, version in installed.items() if f"{canonicalize_name(n)}=={version}" not in locked}
    assert unlocked <= {"pip", "setuptools", "yolo-lightning"} and len(installed) > 50
    sbom = json.loads((image.root / "opt/yolo-lightning/sbom.json").read_text())
    listed = {component["name"].lower() for component in sbom["components"]}
    assert sbom["bomFormat"] == "CycloneDX" and {"torch", "lightning", "yolo-lightning"} <= listed


def site_packages(image: Image) -> list[str]:
    found = image.root.glob("opt/yolo-lightning/lib/*/site-packages")
    return [f"/{path.relative_to(image.root)}" for path in found]


def test_the_user_is_an_ordinary_one_and_no_secret_is_in_the_image(image: Image) -> None:
    assert image.run("entrypoint.sh", "id", "-u").split() == ["1000"]
    assert image.run("entrypoint.sh", "touch", "runs/new", "datasets/new", ".") == ""
    assert [*image.root.glob("etc/ssh/ssh_host_*")] == []
    shadow = (image.root / "etc" / "shadow").read_text()
    assert re.search(r"^yolo:!", shadow, re.MULTILINE)  # no password leads in


def test_torch_compile_finds_its_compiler(image: Image) -> None:
    code = "import torch; print(torch.compile(lambda x: x.sin() + 1)(torch.zeros(3)).tolist())"
    printed = image.run("entrypoint.sh", "python", "-c", code, TORCHINDUCTOR_COMPILE_THREADS="1")
    assert printed.splitlines()[-1] == "[1.0, 1.0, 1.0]"
    assert any((image.root / "home/yolo/.cache/torchinductor").rglob("*.so"))


def test_it_trains(image: Image, shapes: Path) -> None:
    data = "datasets/shapes"
    shutil.copytree(shapes, image.root / WORKSPACE.lstrip("/") / data)
    subprocess.run(["chroot", image.root, "chown", "-R", "1000:1000", f"{WORKSPACE}/{data}"], check=True)
    image.run(
        "tini", "--", "entrypoint.sh", "yolo-lightning", "fit", f"--data.root={data}", "--run_name=here",
        "--data.image_size=64", "--data.batch_size=2", "--data.num_workers=1", "--model.compile=false",
        "--model.channels_last=true", "--trainer.precision=32-true", "--trainer.max_epochs=1",
        OMP_NUM_THREADS="1",
    )  # fmt: skip
    summary = image.root / WORKSPACE.lstrip("/") / "runs" / "here" / "version_0" / "summary.json"
    assert summary.stat().st_uid == 1000


_LOOPBACK_ALONE = f"""
{shlex.quote(sys.executable)} -c '
import fcntl, socket, struct
with socket.socket() as any_:
    fcntl.ioctl(any_, 0x8914, struct.pack("16sh", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
'
echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start  # as Docker does
"""
_OWN_SESSION = """
ssh-keygen -q -t ed25519 -N '' -f /tmp/key
AUTHORIZED_KEYS="$(cat /tmp/key.pub)" entrypoint.sh ssh >/tmp/log 2>&1 &
for try in $(seq 1000); do
    if [ -s /tmp/entrypoint.port ] && entrypoint.sh health 2>/dev/null; then break; fi
    sleep 0.1
done
ssh -i /tmp/key -o StrictHostKeyChecking=no yolo@127.0.0.1 "$1" || { cat /tmp/log; exit 1; }
"""


def test_ssh_listens_on_port_22_and_its_sessions_have_the_environment(image: Image) -> None:
    wanted = "command -v yolo-lightning; echo $TRITON_CACHE_DIR; bash -lc 'command -v yolo-lightning'"
    said = image.run("bash", "-c", _OWN_SESSION, "-", wanted, network=_LOOPBACK_ALONE).splitlines()
    program = "/opt/yolo-lightning/bin/yolo-lightning"
    assert said[-3:] == [program, "/home/yolo/.cache/triton", program]
