"""``predict`` against yolov5's ``detect.py`` on one video: frames a second, detections, and memory.

``python -m benchmarks.predict --weights yolov5n.pt --output FOLDER`` makes a video of two photographs that a
camera moves over, runs both programs on it in turn, and writes ``benchmarks/results/predict.json``. The first
comparison writes nothing but the labels, the second one annotated videos, too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from yolo_lightning.system.environment import package_version

from .peers import environment_of, python_of
from .pictures import photographs
from .plan import CORES, Plan
from .results import describe_machine, git_commit

WIDTH, HEIGHT = 640, 480
FRAMES_A_SHOT = 100  # frames until the camera is at another place
Table = npt.NDArray[np.float64]
"""Detections (n, 6): class, x1, y1, x2, y2 in px, score."""


class Run(NamedTuple):
    """One run of a program."""

    seconds: float  # wall time of the process
    processor_seconds: float
    peak_mb: float  # largest resident set
    folder: Path  # what it wrote


def make_video(path: Path, frames: int) -> Path:
    """Write a video in which a window moves over the photographs; one that is there is kept."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"part-{path.name}")
    writer = cv2.VideoWriter(str(part), cv2.VideoWriter.fourcc(*"mp4v"), 30, (WIDTH, HEIGHT))
    for shot in range(-(-frames // FRAMES_A_SHOT)):
        random = np.random.default_rng(shot)
        photo = photographs()[shot % len(photographs())]
        height, width = photo.shape[:2]
        zoom = random.uniform(0.6, 1.0) * min(width / WIDTH, height / HEIGHT)  # of a frame in the photograph
        room = np.array((width - zoom * WIDTH, height - zoom * HEIGHT))
        places = np.linspace(*(room * random.uniform(size=2) for _ in range(2)), FRAMES_A_SHOT)
        for x, y in places[: frames - shot * FRAMES_A_SHOT]:
            matrix = np.array([[zoom, 0, x], [0, zoom, y]])
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            writer.write(cv2.warpAffine(photo, matrix, (WIDTH, HEIGHT), flags=flags))
    writer.release()
    part.replace(path)
    return path


def ours(video: Path, weights: Path, folder: Path, saves: bool) -> list[str]:
    """Command that predicts with us."""
    return [
        *(sys.executable, "-m", "yolo_lightning", "predict"),
        *(f"--model.weights={weights}", f"--data.predict_source={video}", f"--runs_dir={folder}"),
        *("--trainer.accelerator=cpu", "--save_txt=true", "--save_conf=true", "--save_json=false"),
        f"--save_media={str(saves).lower()}",
    ]


def theirs(python: Path, video: Path, weights: Path, folder: Path, saves: bool) -> list[str]:
    """Command that predicts with yolov5, by the same thresholds."""
    return [
        *(str(python), "-m", "yolov5.detect", "--device", "cpu", "--save-txt", "--save-conf"),
        *("--weights", str(weights), "--source", str(video), "--project", str(folder), "--name", "run"),
        *("--conf-thres", "0.25", "--iou-thres", "0.45", "--max-det", "300"),
        *([] if saves else ["--nosave"]),
    ]


def run(command: list[str], environment: Mapping[str, str], folder: Path) -> Run:
    """Run a program on ``CORES`` cores.

    Raises:
        RuntimeError: It failed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log, before = folder / "log.txt", time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=dict(environment), stdout=file, stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES]),
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        process.returncode = status
        raise RuntimeError(f"{' '.join(command)}: failed with status {status}; see {log}")
    process.returncode = 0
    processor = usage.ru_utime + usage.ru_stime
    return Run(time.monotonic() - before, processor, usage.ru_maxrss / 1024, folder)


def read_labels(folder: Path, first: int) -> dict[int, Table]:
    """Detections by the number of their frame, from 0; the files count from ``first``."""
    size = np.array((WIDTH, HEIGHT))
    found = {}
    for path in folder.rglob("labels/*.txt"):
        rows = np.loadtxt(path, ndmin=2)
        centre, half = rows[:, 1:3] * size, rows[:, 3:5] * size / 2
        table = np.column_stack((rows[:, 0], centre - half, centre + half, rows[:, 5]))
        found[int(path.stem.rsplit("_", 1)[1]) - first] = table
    return found


def compare(a: dict[int, Table], b: dict[int, Table]) -> dict[str, Any]:
    """How far two programs agree, each detection beside the nearest of its class."""
    empty = np.zeros((0, 6))
    counts, other_counts, box_px, score = 0, 0, 0.0, 0.0
    for frame in sorted(a.keys() | b.keys()):
        one, two = a.get(frame, empty), b.get(frame, empty)
        counts, other_counts = counts + len(one), other_counts + abs(len(one) - len(two))
        for row in one:
            same = two[two[:, 0] == row[0]]
            if len(same):
                nearest = np.abs(same - row)[np.abs(same - row)[:, 1:5].max(axis=1).argmin()]
                box_px, score = max(box_px, nearest[1:5].max()), max(score, nearest[5])
    return {
        "detections": counts,
        "missing_or_added": other_counts,
        "largest_box_difference_px": round(box_px, 3),
        "largest_score_difference": round(score, 5),
    }


def hold(video: Path, frames: int, weights: Path, plan: Plan, saves: bool) -> dict[str, Any]:
    """Run both programs in turn, ours first in every other round."""
    python = python_of(plan, "yolov5")
    environments = {"ours": environment_of(plan, None), "yolov5": environment_of(plan, "yolov5")}
    folders = {name: plan.work / "out" / name for name in environments}
    commands = {
        "ours": ours(video, weights, folders["ours"], saves),
        "yolov5": theirs(python, video, weights, folders["yolov5"], saves),
    }
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for number in range(plan.rounds_of(3)):
        for name in [*commands][:: -1 if number % 2 else 1]:
            runs[name].append(run(commands[name], environments[name], folders[name]))
            print(f"{name}: {frames / runs[name][-1].seconds:.2f} frames/s", flush=True)
    rates = {name: [round(frames / one.seconds, 2) for one in taken] for name, taken in runs.items()}
    ratios = [mine / other for mine, other in zip(rates["ours"], rates["yolov5"], strict=True)]
    return {
        "frames_per_second": rates,
        "ratio": round(statistics.median(ratios), 3),
        "processor_seconds": {
            n: [round(one.processor_seconds, 1) for one in taken] for n, taken in runs.items()
        },
        "peak_mb": {name: round(max(one.peak_mb for one in taken)) for name, taken in runs.items()},
        "agreement": compare(read_labels(folders["ours"], 0), read_labels(folders["yolov5"], 1)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of videos and environments")
    parser.add_argument("--weights", type=Path, required=True, help="the official yolov5n.pt")
    parser.add_argument("--yolov5-env", type=Path, help="an environment with yolov5, instead of making one")
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--long", type=int, default=10_000, help="frames of the run for memory; 0: none")
    options = parser.parse_args()
    given = {"yolov5": options.yolov5_env} if options.yolov5_env else {}
    plan = Plan(options.output.absolute(), options.rounds, peer_environments=given)
    weights, frames = options.weights.absolute(), options.frames
    video = make_video(plan.work / f"{frames}.mp4", frames)
    result: dict[str, Any] = {
        "frames": frames,
        "size": [WIDTH, HEIGHT],
        "labels_alone": hold(video, frames, weights, plan, saves=False),
        "with_video": hold(video, frames, weights, plan, saves=True),
    }
    if options.long:
        folder = plan.work / "out" / "long"
        longer = make_video(plan.work / f"{options.long}.mp4", options.long)
        taken = run(ours(longer, weights, folder, False), environment_of(plan, None), folder)
        result["long"] = {"frames": options.long, "peak_mb": round(taken.peak_mb)}
    result |= {
        "load_average": os.getloadavg(),
        "machine": describe_machine(CORES),
        "versions": {name: package_version(name) for name in ("torch", "opencv-python-headless")},
        "commit": git_commit(),
    }
    text = json.dumps(result, indent=1)
    (Path(__file__).parent / "results/predict.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
