"""Environments of the peers, one for each, made with venv and pip, and what each wants at start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from .plan import REPOSITORY, Plan

PEERS: dict[str, tuple[str, ...]] = {
    "yolov5": ("yolov5==7.0.14", "setuptools<81", "numpy<2.3"),
    # ultralytics' own build of the same code that needs OpenCV without a window system.
    "ultralytics": ("ultralytics-opencv-headless",),
}
"""What is installed for each, besides the torch that this environment has."""

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def python_of(plan: Plan, peer: str) -> Path:
    """The interpreter of a peer's environment, which is made if there is none (minutes, 6 GB).

    Raises:
        RuntimeError: it cannot be made; or this is a toy run, which makes none.
    """
    given = plan.peer_environments.get(peer)
    if given is not None:
        python = given.expanduser().absolute() / "bin" / "python"
        if not python.exists():
            raise RuntimeError(f"{given}: is not an environment; give --peer-env {peer}=FOLDER")
        return python
    if plan.toy:
        raise RuntimeError(f"a toy run makes no environment for {peer}; give --peer-env {peer}=FOLDER")
    return _make(plan.work / "environments" / peer, requirements(peer))


def requirements(peer: str) -> list[str]:
    """What pip is asked for: the peer, with the torch of this environment, so that the code alone differs."""
    torch = metadata.version("torch").split("+")[0]
    return [*PEERS[peer], f"torch=={torch}", "torchvision"]


def _make(folder: Path, wanted: list[str]) -> Path:
    python, receipt = folder / "bin" / "python", folder / "installed"
    if receipt.is_file() and receipt.read_text().split("\n") == wanted:
        return python
    print(f"installing {' '.join(wanted)} in {folder}; this takes minutes and 6 GB", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
    for command in ([sys.executable, "-m", "venv", str(folder)], install):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            words = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
            raise RuntimeError(f"{folder}: cannot be made: {words[0]}")
    receipt.write_text("\n".join(wanted))
    return python


def environment_of(plan: Plan, peer: str | None) -> dict[str, str]:
    """Environment variables of a contender; peer None is us.

    Nobody inherits a number of threads. Settings and caches go under the cache folder, a font lies
    where yolov5 would download one, and nothing looks for a network.
    """
    home = plan.work / "home" / (peer or "ours")
    settings = home / "Ultralytics"
    settings.mkdir(parents=True, exist_ok=True)
    _lay_font(plan, peer, settings)
    variables = {name: value for name, value in os.environ.items() if name not in _THREAD_VARIABLES}
    return {
        **variables,
        "PYTHONPATH": str(REPOSITORY),
        "XDG_CACHE_HOME": str(home / "cache"),
        "TORCHINDUCTOR_CACHE_DIR": str(home / "cache" / "inductor"),
        "YOLO_CONFIG_DIR": str(home),
        "YOLOV5_CONFIG_DIR": str(settings),
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLOv5_AUTOINSTALL": "false",
        "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1" if peer == "yolov5" else "0",
        "MPLBACKEND": "Agg",
    }


def _lay_font(plan: Plan, peer: str | None, settings: Path) -> None:
    """yolov5 downloads Arial when it is not there; any font serves."""
    if peer != "yolov5" or (settings / "Arial.Unicode.ttf").exists():
        return
    environment = python_of(plan, peer).parents[1]
    font = next(environment.glob("lib/python3*/site-packages/matplotlib/mpl-data/fonts/ttf/DejaVuSans.ttf"))
    for name in ("Arial.ttf", "Arial.Unicode.ttf"):
        shutil.copy(font, settings / name)
