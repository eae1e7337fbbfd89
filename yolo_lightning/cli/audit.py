"""``yolo-lightning audit``: labels that a network contradicts which has not seen them."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from contextlib import nullcontext, redirect_stdout, suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from ..data.annotations.index import DatasetIndex, join
from ..data.augment import normalise
from ..data.batch import Batch
from ..errors import InputError
from ..evaluation.bootstrap import Estimate, estimate_map
from ..evaluation.coco_matching import Singles
from ..evaluation.confusion import LabelledBoxes
from ..evaluation.detect import non_max_suppression, to_original
from ..evaluation.flips import FLIPS, predict_flipped
from ..evaluation.mean_average_precision import CocoMeanAveragePrecision
from ..evaluation.suspicions import KINDS, find_suspicions
from ..monitoring.report.audit import audit_page, words
from ..monitoring.screen.progress import EpochProgress
from ..performance.stalls import StallMonitor
from ..runs.directory import claim_run_directory
from ..runs.record import as_csv
from ..system.files import write_whole
from ..system.text import printable
from ..training.module import YOLOv5
from .command_parser import CommandParser
from .launcher import DryCLI, launch

_DESCRIPTION = """Ranks the labels of a data set by how likely they are wrong: missing, of a wrong class,
loose or spurious. The images of the train and val splits are divided into folds. For each fold a network is
trained on the other folds, and its detections are compared with the labels, which it has not seen. No file
is moved. Writes audit.html, audit.csv and audit.json, and prints the first suspicions and the mAP over all
folds with its 95 % interval (bootstrap over images)."""
_EPILOG = """The other options are those of fit, such as --data.root DIR, --model.weights FILE and
--data.image_size 320; see: yolo-lightning fit --help"""
_MOST_PRINTED = 20
_AVERAGED = (1, 2, 4)
"""Numbers of flips over which predictions are averaged: none, left-right, and all of ``FLIPS``."""


class OutOfFold(Callback):
    """Keeps the detections of the last validation by the position of their image, float32 (n, 6) each.

    ``found`` has them for each number of flips in ``_AVERAGED``, over which the predictions are averaged.
    """

    def __init__(self) -> None:
        self.found: list[dict[int, Singles]] = [{} for _ in _AVERAGED]

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        network, images = cast(YOLOv5, pl_module).network, normalise(batch.images)
        each = [predict_flipped(network, images, flip) for flip in FLIPS]
        for kept, flips in zip(self.found, _AVERAGED, strict=True):
            boxes, scores = (torch.stack(parts[:flips]).mean(dim=0) for parts in zip(*each, strict=True))
            detections, counts = non_max_suppression(boxes, scores)
            detections = to_original(detections, batch)
            tables = zip(batch.index.tolist(), detections.cpu().numpy(), counts.tolist(), strict=True)
            kept.update({position: table[:count].copy() for position, table, count in tables})


class _FoldCLI(DryCLI):
    """Builds a training with progress and stalls on the screen, averaged weights, and :class:`OutOfFold`."""

    def _callbacks(self, options: Any) -> list[Callback]:
        self.out_of_fold = OutOfFold()
        return [EpochProgress(), options.ema, self.out_of_fold, StallMonitor()]


def predict_out_of_fold(
    of_fit: list[str], folds: int, epochs: int, output: Path
) -> tuple[DatasetIndex, list[list[Singles]]]:
    """Train once a fold on the images of the others, and predict on those of the fold.

    The weights of the last epoch predict: to choose the best would be to look at the labels of the fold.

    Args:
        of_fit: options of ``fit``.
        folds: number of folds.
        epochs: epochs of each training.
        output: folder for ``config.yaml``.

    Returns:
        The index of all images that can be decoded, and for each number in ``_AVERAGED`` the detections of
        each image, float32 (n, 6): x1, y1, x2, y2 in px, score, class.

    Raises:
        InputError: an option or the data is wrong.
    """
    forced = {
        "max_epochs": epochs, "check_val_every_n_epoch": epochs, "limit_val_batches": "null",
        "num_sanity_val_steps": 0, "devices": 1,
        "num_nodes": 1, "logger": "false", "default_root_dir": output,
    }  # fmt: skip
    arguments = ["fit", "--data.cache=none", *of_fit, *(f"--trainer.{key}={v}" for key, v in forced.items())]
    found: list[dict[int, Singles]] = [{} for _ in _AVERAGED]
    for fold in range(folds):
        cli = launch(_FoldCLI, arguments)
        data = cli.datamodule
        if fold == 0:
            whole = join(data.indices["train"], data.indices["val"])
            if folds > len(whole):
                raise InputError(f"--folds is {folds}, but there are {len(whole)} images; give fewer")
            of_image = np.random.default_rng(data.seed).permutation(len(whole)) % folds
        held_out = np.flatnonzero(of_image == fold)
        data.indices |= {
            "train": whole.subset(np.flatnonzero(of_image != fold)),
            "val": whole.subset(held_out),
        }
        rank_zero_info(f"fold {fold + 1} of {folds}: {len(held_out)} images")
        cli.trainer.fit(cli.model, data)
        for kept, of_fold in zip(found, cli.out_of_fold.found, strict=True):
            kept |= {int(held_out[i]): table for i, table in of_fold.items()}
    readable = sorted(found[0])  # a fold leaves out images that cannot be decoded, and lists them
    return whole.subset(np.array(readable)), [[kept[i] for i in readable] for kept in found]


def most_accurate(index: DatasetIndex, found: list[list[Singles]]) -> list[Singles]:
    """The detections of :func:`predict_out_of_fold` with the highest mAP.

    Averaged predictions say more about the labels, unless objects look otherwise when the image is flipped:
    few photographs are as clear upside down.
    """
    return max(found, key=lambda detections: float(_evaluate(index, detections).compute()["map"]))


def judge(index: DatasetIndex, found: list[Singles]) -> list[dict[str, Any]]:
    """Rank the labels of an index by the detections of each image, see :func:`predict_out_of_fold`.

    Returns:
        Records, the most suspicious label first: ``rank`` from 1, ``kind``, ``score``, ``image`` (position in
        the index), ``file``, ``label`` and ``found`` (names of classes, None if there is none),
        ``label_box`` and ``found_box`` (x1, y1, x2, y2 in px), ``confidence`` of what was found.
    """
    table = np.concatenate(found)  # (D, 6)
    image = np.repeat(np.arange(len(index)), [len(rows) for rows in found])
    detections = LabelledBoxes(image, table[:, 5].astype(np.int64), table[:, :4])
    of_label = index.image_of_row
    truth = LabelledBoxes(of_label, index.classes, index.boxes)
    suspicions = find_suspicions(detections, table[:, 4], truth, index.crowd)
    paths, names, records = index.paths(), index.class_names, []
    for rank, (kind, score, d, g) in enumerate(zip(*map(np.ndarray.tolist, suspicions), strict=True), 1):
        position = int(image[d] if g < 0 else of_label[g])
        records.append(
            {
                "rank": rank,
                "kind": KINDS[kind],
                "score": round(score, 4),
                "image": position,
                "file": os.path.relpath(paths[position], index.root),
                "label": None if g < 0 else names[index.classes[g]],
                "label_box": None if g < 0 else index.boxes[g].round(1).tolist(),
                "found": None if d < 0 else names[detections.label[d]],
                "found_box": None if d < 0 else table[d, :4].round(1).tolist(),
                "confidence": None if d < 0 else round(float(table[d, 4]), 4),
            }
        )
    return records


def out_of_fold_map(index: DatasetIndex, found: list[Singles]) -> Estimate:
    """The mAP of all folds together, with its interval."""
    metric = _evaluate(index, found)
    metric.compute()
    assert metric.details is not None
    return estimate_map(metric.details.by_image)


def _evaluate(index: DatasetIndex, found: list[Singles]) -> CocoMeanAveragePrecision:
    metric = CocoMeanAveragePrecision(len(index.class_names))
    for position, rows in enumerate(found):
        tables = torch.from_numpy(rows)[None], torch.from_numpy(index.truth(position))[None]
        counts: list[Tensor] = [torch.tensor([t.shape[1]]) for t in tables]
        metric.update(torch.tensor([position]), tables[0], counts[0], tables[1], counts[1])
    return metric


def run_audit(argv: list[str]) -> None:
    """Audit a data set with the arguments of a command line.

    Raises:
        InputError: an option or the data is wrong.
    """
    usage = "[--folds K] [--epochs N] [--output DIR] [--json] [options of fit]"
    parser = CommandParser("audit", usage, _DESCRIPTION, _EPILOG)
    parser.add_argument("--folds", default="5", metavar="K", help="trainings, each of 1 - 1/K (default: 5)")
    parser.add_argument("--epochs", default="30", metavar="N", help="epochs of each training (default: 30)")
    parser.add_argument(
        "--output", metavar="DIR", help="folder for the results (default: runs/audit/version_K)"
    )
    parser.add_argument("--json", action="store_true", help="print audit.json instead of the table")
    parser.add_argument("--ckpt_path", help=argparse.SUPPRESS)
    options, of_fit = parser.parse_known_args(argv)
    if options.ckpt_path is not None:
        raise InputError("audit trains each fold anew and resumes nothing; give --model.weights instead")
    for name, least in (("folds", 2), ("epochs", 1)):
        text = getattr(options, name)
        if not re.fullmatch(r"[0-9]+", text) or int(text) < least:
            raise InputError(f"--{name} is {text}; give a number from {least}")
    output = _claim(options.output)
    try:
        with redirect_stdout(sys.stderr) if options.json else nullcontext():
            index, found = predict_out_of_fold(of_fit, int(options.folds), int(options.epochs), output)
    except InputError:
        with suppress(OSError):
            output.rmdir()  # unless it holds something
        raise
    records, value = judge(index, most_accurate(index, found)), out_of_fold_map(index, found[0])
    headline = f"out-of-fold mAP 50-95 {value.value:.3f}, 95 % interval {value.low:.3f} to {value.high:.3f}"
    summary = {"map": value._asdict(), "images": len(index), "folds": int(options.folds), "labels": records}
    write_whole(output / "audit.json", json.dumps(summary, indent=1, ensure_ascii=False))
    write_whole(output / "audit.csv", as_csv([*records[0]] if records else ["rank"], records))
    write_whole(output / "audit.html", audit_page(index, records, headline))
    if options.json:
        print(json.dumps(summary, ensure_ascii=False))
        return
    for record in records[:_MOST_PRINTED]:
        line = "{rank:>4}  {score:.3f}  {kind:<14}  {file}: {words}".format(**record, words=words(record))
        print(printable(line))
    print(f"\n{len(records)} suspicious labels; {headline}")
    for suffix in ("html", "csv", "json"):
        print(output / f"audit.{suffix}")
    if records:
        print(
            "Look at audit.html, correct the labels that are wrong in your labelling tool, and train again."
        )


def _claim(output: str | None) -> Path:
    if output is None:
        return claim_run_directory("runs", "audit")
    path = Path(output).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {output}: cannot be made ({error.strerror}); give another") from None
    return path
