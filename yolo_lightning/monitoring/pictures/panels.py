"""The panels of a run: augmented images, predictions beside the truth, and the worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...evaluation.coco_matching import pair_iou
from .draw_boxes import Colour, Floats, Pixels, class_colour, draw_boxes, font, legible
from .views import (
    IOU_THRESHOLD,
    SCORE_THRESHOLD,
    VIEW_PX,
    EvaluatedImage,
    ImageView,
    Mistake,
    find_mistakes,
)

# Okabe and Ito's bluish green and vermilion (https://jfly.uni-koeln.de/color/), told apart by everybody.
TRUTH_COLOUR: Colour = (0, 158, 115)
PREDICTION_COLOUR: Colour = (213, 94, 0)

_COLUMNS = 4
_PAIR_GAP_PX, _GAP_PX = 4, 8
_CAPTION_FONT_PX, _TITLE_FONT_PX = 13, 16
_INK: Colour = (40, 40, 40)
_NEAR_IOU = 0.1
"""Boxes that overlap less belong to different objects."""


class Tile(NamedTuple):
    """One image of a grid."""

    image: Pixels
    """RGB (h, w, 3)."""
    caption: str
    """Lines above the image; long lines are shortened."""
    colour: Colour = _INK
    """Colour of the caption."""


def tile_grid(tiles: Sequence[Tile], columns: int, title: Sequence[tuple[str, Colour | None]]) -> Pixels:
    """Tiles row by row under a title; each row is as high as its highest tile.

    Args:
        tiles: one or more.
        columns: tiles in a row.
        title: words and their colours; None is the colour of plain text.
    """
    face, title_face = font(_CAPTION_FONT_PX), font(_TITLE_FONT_PX)
    line, title_height = sum(face.getmetrics()), sum(title_face.getmetrics()) + _GAP_PX
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    cell = max(tile.image.shape[1] for tile in tiles)
    captions = [line * max(tile.caption.count("\n") + 1 for tile in row) for row in rows]
    images = [max(tile.image.shape[0] for tile in row) for row in rows]
    width = _GAP_PX + (cell + _GAP_PX) * min(columns, len(tiles))
    height = _GAP_PX + title_height + sum(captions) + sum(images) + _GAP_PX * len(rows)
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    left = float(_GAP_PX)
    for text, colour in title:
        text = shortened(text, title_face, width - _GAP_PX - left)
        draw.text((left, _GAP_PX), text, fill=colour or _INK, font=title_face)
        left += title_face.getlength(text)
    top = _GAP_PX + title_height
    for row, caption_height, image_height in zip(rows, captions, images, strict=True):
        for column, tile in enumerate(row):
            x = _GAP_PX + column * (cell + _GAP_PX)
            for number, text in enumerate(tile.caption.split("\n")):
                place = (x, top + number * line)
                draw.text(place, shortened(text, face, cell), fill=tile.colour, font=face)
            canvas.paste(Image.fromarray(tile.image), (x, top + caption_height))
        top += caption_height + image_height + _GAP_PX
    return np.asarray(canvas)


def shortened(text: str, face: ImageFont.FreeTypeFont, width_px: float) -> str:
    """The text without letters of its middle, so that it is at most ``width_px`` wide."""
    if face.getlength(text) <= width_px:
        return text
    for kept in range(len(text) - 1, 0, -1):
        head = (kept + 1) // 2
        shorter = f"{text[:head]}…{text[len(text) - (kept - head) :]}"
        if face.getlength(shorter) <= width_px:
            return shorter
    return ""


def draw_augmented(images: Pixels, labels: Floats, names: Sequence[str]) -> Pixels:
    """Images as the network sees them in training, with their boxes in the colours of their classes.

    Args:
        images: RGB (n, H, W, 3).
        labels: (T, 6) image, class, x1, y1, x2, y2 in px; those of other images are not drawn.
        names: C names of classes.
    """
    names, tiles = legible(names), []
    for number, image in enumerate(images):
        own = labels[labels[:, 0] == number, 1:]  # (n, 5)
        view = ImageView(image, np.array([1, 1, 0, 0], np.float32)).fit(VIEW_PX)
        drawn = _draw_labelled(view, own[:, 1:], own[:, 0], [""] * len(own), names)
        tiles.append(Tile(drawn, f"{len(own)} labels"))
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
    shown: Sequence[tuple[EvaluatedImage, ImageView]], captions: Sequence[str], names: Sequence[str]
) -> Pixels:
    """Whole images, each with its view and its caption: annotations on the left, detections on the right."""
    names, tiles = legible(names), []
    for (image, view), caption in zip(shown, captions, strict=True):
        view, truth = view.fit(VIEW_PX), image.truth
        crowds = [" crowd" * int(crowd) for crowd in truth[:, 6]]
        left = _draw_labelled(view, truth[:, 1:5], truth[:, 0], crowds, names)
        found = image.detections[np.argsort(image.detections[:, 4], kind="stable")]  # highest score on top
        scores = [f" {score:.2f}" for score in found[:, 4].tolist()]
        right = _draw_labelled(view, found[:, :4], found[:, 5], scores, names)
        gap = np.full((left.shape[0], _PAIR_GAP_PX, 3), 255, np.uint8)
        wrong, missed = find_mistakes(found, truth)
        facts = (
            f"{len(truth)} annotated; {len(found)} found, {len(wrong)} of them wrong; {len(missed)} missed"
        )
        tiles.append(Tile(np.concatenate((left, gap, right), axis=1), f"{caption}\n{facts}"))
    title = f"left: annotations; right: detections with a score of {SCORE_THRESHOLD} or more"
    return tile_grid(tiles, _COLUMNS // 2, [(title, None)])


def draw_worst(mistakes: Sequence[Mistake], captions: Sequence[str], names: Sequence[str]) -> Pixels:
    """Mistakes one by one: false positives with the annotations, missed objects with the detections."""
    names, tiles = legible(names), []
    for mistake, caption in zip(mistakes, captions, strict=True):
        view, image = mistake.view.fit(VIEW_PX), mistake.image
        if mistake.is_missed:
            around, label = image.detections[:, :4], image.truth[mistake.row, 0]
            others, colour = PREDICTION_COLOUR, TRUTH_COLOUR
        else:
            around, label = image.truth[:, 1:5], image.detections[mistake.row, 5]
            others, colour = TRUTH_COLOUR, PREDICTION_COLOUR
        drawn = draw_boxes(view.image, view.place(around), [""] * len(around), [others] * len(around), 1)
        drawn = draw_boxes(drawn, view.place(mistake.box[None]), [names[int(label)]], [colour], line_px=3)
        tiles.append(Tile(drawn, f"{describe_mistake(mistake, names)}\n{caption}", colour))
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
    detections, truth = mistake.image.detections, mistake.image.truth
    others = detections[:, :4] if mistake.is_missed else truth[:, 1:5]  # (n, 4)
    same = mistake.box[None].repeat(len(others), axis=0).astype(np.float64)
    overlaps = pair_iou(same, others.astype(np.float64), np.zeros(len(others), bool))  # (n,)
    near = int(overlaps.argmax()) if len(overlaps) else 0
    iou = overlaps.max(initial=0.0)
    if mistake.is_missed:
        row = truth[mistake.row]
        width, height = (row[3:5] - row[1:3]).tolist()
        what = f"missed {names[int(row[0])]}, {width:.0f} × {height:.0f} px"
        if iou < _NEAR_IOU:
            return f"{what}: nothing found there"
        score, label = detections[near, 4:].tolist()
        found = f"{names[int(label)]} {score:.2f}"
        is_other = label != row[0] and iou >= IOU_THRESHOLD
        return f"{what}: taken for {found}" if is_other else f"{what}: IoU {iou:.2f} with {found}"
    score, label = detections[mistake.row, 4:].tolist()
    what = f"{names[int(label)]} {score:.2f}"
    if iou < _NEAR_IOU:
        return f"{what}: nothing annotated there"
    other = int(truth[near, 0])
    if iou < IOU_THRESHOLD:
        return f"{what}: IoU {iou:.2f} with {names[other]}"
    return f"{what}: found twice" if other == label else f"{what}: annotated as {names[other]}"
