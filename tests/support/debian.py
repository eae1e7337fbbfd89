"""Debian's packages, unpacked in the user's cache folder: for tests, without root."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

USER_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yolo_lightning"
"""Read when this is imported: the tests set XDG_CACHE_HOME to a folder that lives as long as they do."""


class PackagesMissing(Exception):
    """Packages are not here and cannot be fetched; says why."""


def fetch(name: str, packages: tuple[str, ...]) -> Path:
    """A folder with these packages unpacked; downloaded on the first call on a machine.

    Args:
        name: Of the folder in the cache.
        packages: Debian's names.

    Raises:
        PackagesMissing: There is no apt or dpkg, or nothing can be downloaded.
    """
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise PackagesMissing(f"{program} is not here, so that Debian's {name} cannot be fetched")
    cache = writable_folder() / name
    cache.mkdir(exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        programs = cache / hashlib.sha256(" ".join(packages).encode()).hexdigest()[:8]
        if not programs.is_dir():
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                debs, unpacked = Path(folder) / "debs", Path(folder) / "programs"
                debs.mkdir()
                _download(debs, packages)
                for deb in debs.glob("*.deb"):
                    subprocess.run(["dpkg", "-x", deb, unpacked], check=True, timeout=200)
                unpacked.rename(programs)
    return programs


def writable_folder() -> Path:
    """The user's cache folder, or else one among the temporary files.

    Raises:
        PackagesMissing: Neither can be written.
    """
    for folder in (USER_CACHE, Path(tempfile.gettempdir()) / f"yolo_lightning_{os.getuid()}"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise PackagesMissing("neither the user's cache folder nor that of temporary files can be written")


def _download(folder: Path, packages: tuple[str, ...]) -> None:
    if _apt(folder, "download", *packages).returncode == 0:
        return
    # No lists of packages here, or old ones: read them into a folder of our own, for which nobody is root.
    state = folder / "apt"
    (state / "lists" / "partial").mkdir(parents=True)
    (state / "archives" / "partial").mkdir(parents=True)
    own = (f"-oDir::State::Lists={state}/lists", f"-oDir::Cache={state}", "-oAPT::Sandbox::User=")
    updated = _apt(folder, *own, "update")
    downloaded = _apt(folder, *own, "download", *packages)
    if downloaded.returncode:
        raise PackagesMissing(
            f"apt-get cannot fetch {packages}: {updated.stderr[-500:]} {downloaded.stderr[-1000:]}"
        )


def _apt(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["apt-get", "-q", *arguments]
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    except subprocess.TimeoutExpired:
        raise PackagesMissing(f"{' '.join(command)} took more than 240 s") from None
