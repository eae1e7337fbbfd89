"""A slow, obvious augmentation of one sample with cv2 and NumPy, and batches to feed it.

It is handed the same uniform numbers as the package and turns them into a picture in the classic way:
build the canvas, warp it, blend, change the colour through look-up tables, flip.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import torch

from yolo_lightning.data.augment import AugmentationConfig
from yolo_lightning.data.augment.randomness import BETA_DRAWS, VIEW_STREAMS, SampleStream, ViewStream
from yolo_lightning.data.batch import Batch, image_size
from yolo_lightning.data.image_size import Size, as_size
from yolo_lightning.data.letterbox import letterbox_geometry

SIZES = ((480, 640), (640, 480), (500, 500), (200, 640), (333, 427))
"""Original heights and widths that the test batches cycle through."""

Array = np.ndarray[Any, Any]


def make_batch(
    images: int, side: int | Size, capacity: int = 8, seed: int = 0, first_index: int = 0, labels: bool = True
) -> Batch:
    """Smooth random pictures of several shapes, letterboxed, with up to ``capacity`` boxes each."""
    size = as_size(side)
    rng = np.random.default_rng(seed)
    pixels = np.full((images, *size, 3), 114, np.uint8)
    targets = np.zeros((images, capacity, 5), np.float32)
    counts = rng.integers(0, capacity + 1, images) if labels else np.zeros(images, np.int64)
    letterbox, originals = np.zeros((images, 4), np.float32), np.zeros((images, 2), np.int64)
    for i in range(images):
        height, width = SIZES[i % len(SIZES)]
        box = letterbox_geometry(height, width, size)
        noise = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        picture = cv2.resize(noise, (box.width, box.height), interpolation=cv2.INTER_CUBIC)
        pixels[i, box.pad_y : box.pad_y + box.height, box.pad_x : box.pad_x + box.width] = picture
        letterbox[i] = box.gain_x, box.gain_y, box.pad_x, box.pad_y
        originals[i] = height, width
        for row in range(counts[i]):
            x = np.sort(rng.uniform(0, box.width, 2)) + box.pad_x
            y = np.sort(rng.uniform(0, box.height, 2)) + box.pad_y
            targets[i, row] = rng.integers(0, 5), x[0], y[0], x[1], y[1]
    index = torch.arange(first_index, first_index + images)
    return Batch(
        images=torch.from_numpy(pixels).permute(0, 3, 1, 2),
        targets=torch.from_numpy(targets),
        count=torch.from_numpy(np.asarray(counts, np.int64)),
        index=index,
        image_ids=index + 1000,
        original_sizes=torch.from_numpy(originals),
        letterbox=torch.from_numpy(letterbox),
        truth=torch.zeros(images, 0, 7),
        truth_count=torch.zeros(images, dtype=torch.int64),
    )


def warp_matrix(config: AugmentationConfig, u: Array, canvas: Size, size: Size) -> tuple[Array, float]:
    """Canvas px to image px in float64, and the zoom."""
    centring = np.array([[1, 0, -canvas[1] / 2], [0, 1, -canvas[0] / 2], [0, 0, 1.0]])
    perspective = np.eye(3)
    perspective[2, :2] = config.perspective * (2 * u[ViewStream.PERSPECTIVE : ViewStream.PERSPECTIVE + 2] - 1)
    zoom = 1 + config.scale * (2 * u[ViewStream.SCALE] - 1)
    rotation = np.eye(3)
    rotation[:2] = cv2.getRotationMatrix2D((0, 0), config.degrees * (2 * u[ViewStream.ANGLE] - 1), zoom)
    shear = np.eye(3)
    shear[0, 1], shear[1, 0] = (
        math.tan(math.radians(config.shear * (2 * u[ViewStream.SHEAR + axis] - 1))) for axis in (0, 1)
    )
    translation = np.eye(3)
    move = 2 * u[ViewStream.TRANSLATE : ViewStream.TRANSLATE + 2] - 1
    translation[:2, 2] = (0.5 + config.translate * move) * size[::-1]
    return translation @ shear @ rotation @ perspective @ centring, zoom


def mosaic_canvas(batch: Batch, rows: list[int], centre_x: int, centre_y: int) -> tuple[Array, Array]:
    """Four letterboxed images, without their padding, around a point of a grey canvas; and their labels."""
    size = image_size(batch)
    whole_height, whole_width = 2 * size[0], 2 * size[1]
    canvas, labels = np.full((whole_height, whole_width, 3), 114, np.uint8), []
    for corner, row in enumerate(rows):
        height, width = batch.original_sizes[row].tolist()
        box = letterbox_geometry(height, width, size)
        picture = batch.images[row].permute(1, 2, 0).numpy()
        picture = picture[box.pad_y : box.pad_y + box.height, box.pad_x : box.pad_x + box.width]
        left = centre_x if corner in (1, 3) else centre_x - box.width
        top = centre_y if corner in (2, 3) else centre_y - box.height
        for y in range(max(top, 0), min(top + box.height, whole_height)):
            x = slice(max(left, 0), min(left + box.width, whole_width))
            canvas[y, x] = picture[y - top, x.start - left : x.stop - left]
        tile = batch.targets[row, : batch.count[row]].numpy().astype(np.float64)
        tile[:, [1, 3]] += left - box.pad_x
        tile[:, [2, 4]] += top - box.pad_y
        labels.append(tile)
    table = np.concatenate(labels)
    table[:, 1:] = table[:, 1:].clip(0, [whole_width, whole_height] * 2)
    return canvas, table


def keep_candidate(before: Array, after: Array) -> bool:
    """One box before (zoomed) and after: at least 2 px, a tenth of its area, and not a sliver."""
    width, height = after[2] - after[0], after[3] - after[1]
    if width <= 2 or height <= 2:
        return False
    if width * height <= 0.1 * (before[2] - before[0]) * (before[3] - before[1]):
        return False
    return bool(max(width / height, height / width) < 100)


def warp_labels(labels: Array, matrix: Array, zoom: float, size: Size) -> Array:
    """Warp, clip and filter, box by box and corner by corner."""
    kept = []
    for label, *box in labels:
        points = [matrix @ (x, y, 1) for x in box[0::2] for y in box[1::2]]
        xs, ys = [p[0] / p[2] for p in points], [p[1] / p[2] for p in points]
        after = np.clip([min(xs), min(ys), max(xs), max(ys)], 0, size[::-1] * 2)
        if keep_candidate(np.array(box) * zoom, after):
            kept.append([label, *after])
    return np.array(kept).reshape(-1, 5)


def view(
    batch: Batch, config: AugmentationConfig, u: Array, own: int, filled: int, mosaic: bool
) -> tuple[Array, Array]:
    """One warped mosaic or single image, uint8 (H, W, 3), and its labels."""
    size = image_size(batch)
    if mosaic:
        chosen = [own, *(filled - 1 - int(u[ViewStream.PARTNER + i] * filled) for i in range(3))]
        rows = [chosen[i] for i in np.argsort(u[ViewStream.ORDER : ViewStream.ORDER + 4])]
        centre = [int(size[1 - axis] * (0.5 + u[ViewStream.CENTRE + axis])) for axis in (0, 1)]
        canvas, labels = mosaic_canvas(batch, rows, *centre)
    else:
        canvas = batch.images[own].permute(1, 2, 0).numpy()
        labels = batch.targets[own, : batch.count[own]].numpy().astype(np.float64)
    matrix, zoom = warp_matrix(config, u, canvas.shape[:2], size)
    if config.perspective:
        picture = cv2.warpPerspective(canvas, matrix, size[::-1], borderValue=(114, 114, 114))
    else:
        picture = cv2.warpAffine(canvas, matrix[:2], size[::-1], borderValue=(114, 114, 114))
    return picture, warp_labels(labels, matrix, zoom, size)


def change_colour(picture: Array, gains: Array) -> Array:
    """OpenCV's 8-bit HSV through three look-up tables."""
    hue, saturation, value = cv2.split(cv2.cvtColor(picture, cv2.COLOR_RGB2HSV))
    levels = np.arange(256, dtype=np.float64)
    tables = (levels * gains[0] % 180, (levels * gains[1]).clip(0, 255), (levels * gains[2]).clip(0, 255))
    changed = [cv2.LUT(p, t.astype(np.uint8)) for p, t in zip((hue, saturation, value), tables, strict=True)]
    return np.asarray(cv2.cvtColor(cv2.merge(changed), cv2.COLOR_HSV2RGB))


def augment(batch: Batch, config: AugmentationConfig, u: Array, own: int, filled: int) -> tuple[Array, Array]:
    """What a sample becomes, uint8 (H, W, 3) and labels (n, 5), from its uniform numbers."""
    mosaic = bool(u[SampleStream.MOSAIC] < config.mosaic)
    picture, labels = view(batch, config, u[:VIEW_STREAMS], own, filled, mosaic)
    is_cut = mosaic and u[SampleStream.CUTMIX] < config.cutmix
    if is_cut:
        second = u[VIEW_STREAMS : 2 * VIEW_STREAMS]
        row = filled - 1 - int(second[ViewStream.MAIN] * filled)
        other, more = view(batch, config, second, row, filled, True)
        # The package draws the rectangle in the flipped picture.
        pair = [flip(config, u, *each) for each in ((picture, labels), (other, more))]
        picture, labels = flip(config, u, *cutmix(*pair[0], *pair[1], u))
    if mosaic and not is_cut and u[SampleStream.MIXUP] < config.mixup:
        second = u[VIEW_STREAMS : 2 * VIEW_STREAMS]
        row = filled - 1 - int(second[ViewStream.MAIN] * filled)
        other, more = view(batch, config, second, row, filled, True)
        ratio = sorted(u[SampleStream.BETA : SampleStream.BETA + BETA_DRAWS])[31]
        picture = (picture * ratio + other * (1 - ratio)).astype(np.uint8)
        labels = np.concatenate((labels, more))
    ranges = np.array([config.hsv_h, config.hsv_s, config.hsv_v])
    if ranges.any():
        drawn = 2 * u[SampleStream.COLOUR : SampleStream.COLOUR + 3] - 1
        picture = change_colour(picture, 1 + ranges * drawn)
    if u[SampleStream.BGR] < config.bgr:
        picture = picture[..., ::-1]
    return flip(config, u, picture, labels)


def flip(config: AugmentationConfig, u: Array, picture: Array, labels: Array) -> tuple[Array, Array]:
    """Up-down and left-right flip of a picture and its labels."""
    (height, width), labels = picture.shape[:2], labels.copy()
    if u[SampleStream.FLIP_UP_DOWN] < config.flip_up_down:
        picture = picture[::-1]
        labels[:, [2, 4]] = height - labels[:, [4, 2]]
    if u[SampleStream.FLIP_LEFT_RIGHT] < config.flip_left_right:
        picture = picture[:, ::-1]
        labels[:, [1, 3]] = width - labels[:, [3, 1]]
    return picture, labels


def common_area(first: Array, second: Array) -> float:
    """Area that two boxes xyxy share, in px^2."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return float(max(width, 0) * max(height, 0))


def cutmix(picture: Array, labels: Array, other: Array, more: Array, u: Array) -> tuple[Array, Array]:
    """Paste a rectangle of another picture where there is no label, if a label of the other is in it."""
    (height, width), free = picture.shape[:2], []
    for part, x, y in u[SampleStream.AREA : SampleStream.END].reshape(3, 3):
        half_x, half_y = int(width * math.sqrt(part)) // 2, int(height * math.sqrt(part)) // 2
        x, y = int(x * width), int(y * height)
        area = np.clip([x - half_x, y - half_y, x + half_x, y + half_y], 0, [width, height] * 2)
        if all(common_area(area, label[1:]) == 0 for label in labels):
            free.append(area)
    if not free:
        return picture, labels
    area = free[int(u[SampleStream.CHOICE] * len(free))]
    left, top, right, bottom = area
    pasted = []
    for label, *box in more:
        if common_area(area, np.array(box)) >= 0.1 * (box[2] - box[0]) * (box[3] - box[1]):
            pasted.append([label, *np.clip(box, [left, top, left, top], [right, bottom, right, bottom])])
    if not pasted:
        return picture, labels
    picture = picture.copy()
    picture[top:bottom, left:right] = other[top:bottom, left:right]
    return picture, np.concatenate((labels, pasted))
