from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from yolo_lightning.inference.media import DrawOptions, VideoFile, draw_detections, write_crops
from yolo_lightning.monitoring.pictures.draw_boxes import class_colour


@pytest.mark.parametrize("size", [(6, 9), (32, 32), (480, 640), (3000, 4000)])
def test_boxes_and_labels_lie_inside_pictures_of_any_size(size: tuple[int, int]) -> None:
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    whole, corner = [0, 0, width, height, 0.9, 0], [width - 2, height - 2, width, height, 0.5, 1]
    rows = np.array([whole, corner], np.float32)
    drawn = draw_detections(image, rows, ["first", "second"])
    assert drawn.shape == image.shape
    assert not image.any()  # the argument is left alone
    coloured = (drawn == class_colour(0)).all(axis=-1)
    assert coloured.any()
    if height >= 480:
        # The edges of the box and the ground of its label grow with the picture.
        label_rows = coloured[:, 5 : width // 40].all(axis=1).nonzero()[0]
        assert height / 100 < len(label_rows) < height / 10


def test_the_surest_of_many_detections_is_on_top() -> None:
    rows = np.array([[10, 10, 50, 50, 0.9 - 0.002 * i, i % 7] for i in range(300)], np.float32)
    drawn = draw_detections(np.zeros((80, 100, 3), np.uint8), rows, [str(label) for label in range(7)])
    assert tuple(drawn[50, 30]) == class_colour(0)


def test_lines_labels_and_scores_are_drawn_as_asked() -> None:
    image, table = np.zeros((200, 300, 3), np.uint8), np.array([[50, 80, 250, 180, 0.9, 0]], np.float32)
    bare = draw_detections(image, table, ["a"], DrawOptions(6, hide_labels=True, hide_scores=True))
    assert bare[:80].max() == 0  # no caption above the box
    assert (bare[100, 50:56] == class_colour(0)).all() and not bare[100, 56:].any(axis=1)[:100].any()
    wide = [
        np.flatnonzero(draw_detections(image, table, ["name"], DrawOptions(1, *hidden))[75].any(axis=1)).max()
        for hidden in ((False, False), (True, False), (False, True))
    ]
    assert wide[0] > max(wide[1:])


def test_crops_hold_the_objects_and_stay_in_their_folder(tmp_path: Path) -> None:
    image = np.zeros((100, 120, 3), np.uint8)
    image[20:40, 30:60] = (250, 10, 10)
    table = np.array([[30, 20, 60, 40, 0.9, 0], [0, 0, 20, 10, 0.5, 1]], np.float32)
    write_crops(tmp_path / "crops", "photo", image, table, ["red", "../../out"])
    crop = cv2.imread(str(tmp_path / "crops/red/photo_0.jpg"))[..., ::-1]
    assert crop.shape == (31, 41, 3)  # 2 % and 10 px larger than the box, whole px
    assert np.abs(crop[15, 20].astype(int) - (250, 10, 10)).max() < 20 and crop[2, 2].max() < 20
    written = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.jpg")}
    assert written == {"crops/red/photo_0.jpg", "crops/______out/photo_1.jpg"}


def test_a_video_has_its_frames_and_speed(tmp_path: Path) -> None:
    video = VideoFile(tmp_path / "new" / "clip.mp4", 12.0)
    for k in range(5):
        video.add(np.full((48, 64, 3), 40 * k, np.uint8))
    video.close()
    capture = cv2.VideoCapture(str(video.path))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12)
    levels = []
    while (read := capture.read())[0]:
        assert read[1].shape == (48, 64, 3)
        levels.append(read[1].mean())
    assert levels == pytest.approx([0, 40, 80, 120, 160], abs=4)
