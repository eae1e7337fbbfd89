"""The panels of a run: augmented images, predictions beside the truth, and the worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .draw_boxes import Colour, Floats, Pixels, class_colour, draw_boxes, legible
from .grid import Tile, tile_grid
from .mistakes import IOU_THRESHOLD, VIEW_PX, Mistake, find_mistakes
from .views import SCORE_THRESHOLD, ImageView

# Okabe and Ito's bluish green and vermilion (https://jfly.uni-koeln.de/color/), told apart by everybody.
TRUTH_COLOUR: Colour = (0, 158, 115)
PREDICTION_COLOUR: Colour = (213, 94, 0)

_COLUMNS = 4
_PAIR_GAP_PX = 4
_NEAR_IOU = 0.1
"""Boxes that overlap less belong to different objects."""


def draw_augmented(images: Pixels, targets: Floats, counts: Sequence[int], names: Sequence[str]) -> Pixels:
    """Images as the network sees them in training, with their boxes in the colours of their classes.

    Args:
        images: RGB (n, S, S, 3).
        targets: (n, N, 5) class, x1, y1, x2, y2 in px.
        counts: number of labels in each table of ``targets``; they come first.
        names: C names of classes.
    """
    names, tiles = legible(names), []
    for image, table, count in zip(images, targets, counts, strict=True):
        view = ImageView(image, np.array([1, 1, 0, 0], np.float32)).fit(VIEW_PX)
        drawn = _draw_labelled(view, table[:count, 1:5], table[:count, 0], [""] * count, names)
        tiles.append(Tile(drawn, f"{count} labels"))
    return tile_grid(tiles, _COLUMNS, [("training images after augmentation", None)])


def _draw_labelled(
    view: ImageView, boxes: Floats, labels: Floats, suffixes: Sequence[str], names: Sequence[str]
) -> Pixels:
    """Boxes (n, 4) of the original image in the colours of their classes (n,), with their names."""
    classes = labels.astype(int).tolist()
    words = [f"{names[label]}{suffix}" for label, suffix in zip(classes, suffixes, strict=True)]
    colours = [class_colour(label) for label in classes]
    return draw_boxes(view.image, view.place(boxes), words, colours, font_px=10)


def draw_predictions(
    views: Sequence[ImageView],
    detections: Sequence[Floats],
    truth: Sequence[Floats],
    captions: Sequence[str],
    names: Sequence[str],
) -> Pixels:
    """Whole images twice: annotations on the left, detections on the right.

    Args:
        views: n images.
        detections: n of (d, 6) as of ``EvaluatedImage``.
        truth: n of (m, 7) as of ``EvaluatedImage``.
        captions: n names of images.
        names: C names of classes.
    """
    names, tiles = legible(names), []
    for view, found, table, caption in zip(views, detections, truth, captions, strict=True):
        view = view.fit(VIEW_PX)
        left = _draw_labelled(
            view, table[:, 1:5], table[:, 0], [" crowd" * int(c) for c in table[:, 6]], names
        )
        found = found[np.argsort(found[:, 4], kind="stable")]  # highest score on top
        scores = [f" {score:.2f}" for score in found[:, 4].tolist()]
        right = _draw_labelled(view, found[:, :4], found[:, 5], scores, names)
        gap = np.full((left.shape[0], _PAIR_GAP_PX, 3), 255, np.uint8)
        errors = find_mistakes(found, table)
        facts = f"{len(table)} annotated; {len(found)} found, {len(errors.false_positives)} of them wrong"
        caption = f"{caption}\n{facts}; {len(errors.missed)} missed"
        tiles.append(Tile(np.concatenate((left, gap, right), axis=1), caption))
    title = f"left: annotations; right: detections with a score of {SCORE_THRESHOLD} or more"
    return tile_grid(tiles, _COLUMNS // 2, [(title, None)])


def draw_worst(mistakes: Sequence[Mistake], captions: Sequence[str], names: Sequence[str]) -> Pixels:
    """Mistakes one by one: false positives with the annotations, missed objects with the detections.

    Args:
        mistakes: n mistakes.
        captions: n names of images.
        names: C names of classes.
    """
    names, tiles = legible(names), []
    for mistake, caption in zip(mistakes, captions, strict=True):
        view = mistake.view.fit(VIEW_PX)
        if mistake.is_missed:
            around, colours = mistake.detections[:, :4], (PREDICTION_COLOUR, TRUTH_COLOUR)
            word = names[int(mistake.truth[mistake.row, 0])]
        else:
            around, colours = mistake.truth[:, 1:5], (TRUTH_COLOUR, PREDICTION_COLOUR)
            word = names[int(mistake.detections[mistake.row, 5])]
        image = draw_boxes(view.image, view.place(around), [""] * len(around), [colours[0]] * len(around), 1)
        image = draw_boxes(image, view.place(mistake.box[None]), [word], [colours[1]], line_px=3)
        tiles.append(Tile(image, f"{describe_mistake(mistake, names)}\n{caption}", colours[1]))
    title = [
        ("highest false positives and largest missed objects: ", None),
        ("annotations", TRUTH_COLOUR),
        (" and ", None),
        ("detections", PREDICTION_COLOUR),
        (f" with a score of {SCORE_THRESHOLD} or more", None),
    ]
    return tile_grid(tiles, _COLUMNS, title)


def describe_mistake(mistake: Mistake, names: Sequence[str]) -> str:
    """A mistake in a few words."""
    near = int(mistake.overlap.argmax()) if len(mistake.overlap) else None
    iou = 0.0 if near is None else float(mistake.overlap[near])
    if mistake.is_missed:
        row = mistake.truth[mistake.row]
        width, height = (row[3:5] - row[1:3]).tolist()
        what = f"missed {names[int(row[0])]}, {width:.0f} × {height:.0f} px"
        if near is None or iou < _NEAR_IOU:
            return f"{what}: nothing found there"
        score, label = mistake.detections[near, 4:].tolist()
        found = f"{names[int(label)]} {score:.2f}"
        is_other = label != row[0] and iou >= IOU_THRESHOLD
        return f"{what}: taken for {found}" if is_other else f"{what}: IoU {iou:.2f} with {found}"
    score, label = mistake.detections[mistake.row, 4:].tolist()
    what = f"{names[int(label)]} {score:.2f}"
    if near is None or iou < _NEAR_IOU:
        return f"{what}: nothing annotated there"
    other = int(mistake.truth[near, 0])
    if iou < IOU_THRESHOLD:
        return f"{what}: IoU {iou:.2f} with {names[other]}"
    return f"{what}: found twice" if other == label else f"{what}: annotated as {names[other]}"
