"""Suspicious labels: annotations that contradict what a network found that has not seen them.

The kinds, and one score a box, follow ObjectLab (Tkachenko, Thyagarajan and Mueller 2023,
https://arxiv.org/abs/2309.00832). Our formulas estimate a probability, so that one ranking holds all kinds.
``own`` and ``other`` are the best confidences of detections on an annotation (IoU of 0.5 or more), of its
class and of another. ``P`` is how often detections of a confidence agree with the labels of this data set:
in lying on one, in its class, and, of those that are meant for a label, in its place.

* missing label: ``P_on * (1 - IoU) * (1 + complete) / 2``, of a detection whose IoU with every annotation is
  below 0.5. ``complete`` is the share of the probable objects of the image that have a label, not counting
  this one: where much is unlabelled on purpose, one more is less of a surprise
* wrong class: ``P_class * (1 - own / other)``
* loose box: ``P_place * (1 - own) * looseness``, of the detection that is meant for the annotation: the
  surest that overlaps no other of its class more, with an IoU from 0.2 to 0.5; or ``own * looseness``, of the
  best detection on it. ``looseness`` falls from 1 at an IoU of 0.4 to 0 at 0.7
* spurious label: ``recall * (1 - own)``, where nothing was found. ``recall`` is the mean of ``own`` over the
  annotations of the class: the silence of a network that hardly knows a class says little
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torchvision.ops import batched_nms

from .coco_matching import Bools, Floats, Ints, Singles, overlapping_pairs
from .confusion import LabelledBoxes

KINDS = ("missing label", "wrong class", "loose box", "spurious label")
_MISSING, _WRONG, _LOOSE, _SPURIOUS = range(len(KINDS))
_NEAR, _ASTRAY, _ON, _TIGHT = 0.2, 0.4, 0.5, 0.7
"""IoU of a detection and an annotation from which they may be meant for each other, up to which the box is
certainly loose, from which the detection lies on the annotation, and from which the box is good."""
_SURE = 0.1
"""Least confidence of a detection that contradicts a label."""


class Suspicions(NamedTuple):
    """S suspicious labels, the worst first. An annotation is in one of them at most, a detection too."""

    kind: Ints  # (S,), place in KINDS
    score: Floats  # (S,), 0..1
    detection: Ints  # (S,), row of the detection that contradicts; -1 if there is none
    annotation: Ints  # (S,), row of the annotation; -1 if it is missing


def find_suspicions(
    found: LabelledBoxes, score: Singles, truth: LabelledBoxes, crowd: Bools, least: float = 0.5
) -> Suspicions:
    """Rank annotations that are missing, of a wrong class, loose or spurious.

    Args:
        found: D detections of all scores, by a network that was not trained on their image.
        score: (D,), confidence of the detections, 0..1.
        truth: G annotations.
        crowd: (G,), which annotations are crowds; what lies in one is not missing.
        least: least score of a suspicion.
    """
    annotations, detections = len(truth.label), len(score)
    d, g, iou = overlapping_pairs(found.image, found.boxes, truth.image, truth.boxes, crowd, _NEAR)
    # Of overlapping detections the best one speaks for the object, whatever their classes.
    kept = np.zeros(detections, bool)
    tables = torch.from_numpy(found.boxes), torch.from_numpy(score), torch.from_numpy(found.image)
    kept[batched_nms(*tables, _ON).numpy()] = True
    sure = kept & (score >= _SURE)
    highest = _best(d, iou, iou > 0, detections)  # (D,) pairs
    overlap = _at(iou, highest)
    on_any = overlap >= _ON

    is_same, looseness = found.label[d] == truth.label[g], ((_TIGHT - iou) / (_TIGHT - _ASTRAY)).clip(0, 1)
    on_own = _best(g, score[d], is_same & (iou >= _ON), annotations)  # (G,) pairs
    on_other = _best(g, score[d], ~is_same & (iou >= _ON), annotations)  # (G,) pairs
    is_closest = np.isin(np.arange(len(d)), _best(d, iou, is_same & ~crowd[g], detections))
    meant = _best(g, score[d], is_closest & sure[d], annotations)  # (G,) pairs
    astray = np.where(_at(iou, meant) < _ON, meant, -1)
    own, other = _at(score[d], on_own), np.maximum(_at(score[d], on_other), _SURE)
    p_class = _agreement(score, _at(is_same, highest) > 0, sure & on_any)
    p_place = _agreement(score, on_any, np.isin(np.arange(detections), d[meant[meant >= 0]]))

    moved = _at(p_place[d] * looseness, astray) * (1 - own)
    loose = _at(score[d] * looseness, on_own)
    by_kind = np.zeros((len(KINDS), annotations))
    by_kind[_WRONG] = _at(p_class[d], on_other) * (1 - own / other)
    by_kind[_LOOSE] = np.maximum(moved, loose)
    by_kind[_SPURIOUS] = _recall(truth.label, own) * (1 - own) * ((other <= _SURE) & (astray < 0))
    by_kind[:, crowd] = 0
    kind, worst = by_kind.argmax(axis=0), by_kind.max(axis=0)
    pair = np.select(
        (kind == _WRONG, kind == _LOOSE), (on_other, np.where(moved > loose, astray, on_own)), -1
    )
    detection = np.where(pair < 0, -1, np.append(d, -1)[pair])
    of_missing = _missing_scores(found, score, sure, on_any) * (1 - overlap)
    of_missing[detection[(worst >= least) & (detection >= 0)]] = 0  # these contradict an annotation already
    every = Suspicions(
        kind=np.concatenate((kind, np.full(detections, _MISSING))),
        score=np.concatenate((worst, of_missing)),
        detection=np.concatenate((detection, np.arange(detections))),
        annotation=np.concatenate((np.arange(annotations), np.full(detections, -1))),
    )
    order = np.argsort(-every.score, kind="stable")
    order = order[every.score[order] >= least]
    return Suspicions(*(column[order] for column in every))  # type: ignore[arg-type]


def _missing_scores(found: LabelledBoxes, score: Singles, sure: Bools, on_any: Bools) -> Floats:
    """``P_on * (1 + complete) / 2`` of sure detections (D,) that lie on no annotation; 0 for the others."""
    p_on = np.zeros(len(score))
    for label in np.unique(found.label[sure]):  # annotators pass over some classes more than over others
        of_class = found.label == label
        p_on[of_class] = _agreement(score, on_any, sure & of_class)[of_class]
    probable = sure & (p_on >= 0.5)
    labelled = 1 + np.bincount(found.image, probable & on_any)[found.image]  # 1: a label that is right
    others = (np.bincount(found.image, probable & ~on_any)[found.image] - 1).clip(0)
    return np.where(sure & ~on_any, p_on * (1 + labelled / (labelled + others)) / 2, 0.0)


def _recall(label: Ints, own: Floats) -> Floats:
    """Mean of ``own`` over the annotations of the same class: (G,)."""
    count = np.bincount(label)
    return np.asarray((np.bincount(label, own) / np.maximum(count, 1))[label])


def _agreement(score: Singles, agrees: Bools, chosen: Bools) -> Floats:
    """Probability to agree at each confidence: (D,).

    It is fitted to the chosen rows (D,): rising steps (isotonic regression, by pooling adjacent violators),
    to each of which one more row is added that agrees with the probability that its confidence says.
    """
    rows = np.flatnonzero(chosen)
    if not len(rows):
        return score.astype(np.float64)
    rows = rows[np.argsort(score[rows], kind="stable")]
    blocks: list[tuple[int, int]] = []  # rows that agree, and all
    for right in agrees[rows].tolist():
        count, size = int(right), 1
        while blocks and blocks[-1][0] * size >= count * blocks[-1][1]:
            count, size = count + blocks[-1][0], size + blocks.pop()[1]
        blocks.append((count, size))
    counts, sizes = np.repeat(blocks, [size for _, size in blocks], axis=0).T
    return np.interp(score, score[rows], (counts + score[rows]) / (sizes + 1))


def _best(group: Ints, value: Singles | Floats, chosen: Bools, groups: int) -> Ints:
    """The chosen row with the highest value of each group, or -1: (groups,) from (n,)."""
    best = np.full(groups, -1)
    rows = np.flatnonzero(chosen)
    rows = rows[np.argsort(value[rows], kind="stable")]
    best[group[rows]] = rows  # the last one stays
    return best


def _at(value: Singles | Floats | Bools, row: Ints) -> Floats:
    """Values of rows, 0 for row -1."""
    return np.where(row < 0, 0.0, np.append(value, 0.0)[row])
