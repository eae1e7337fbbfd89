"""Detections of ultralytics/yolov5 itself, as JSON; run by an interpreter that has yolov5==7.0.14.

Usage: python yolov5_program.py WEIGHTS IMAGE_SIZE OUTPUT IMAGE...
"""

import json
import sys


def main() -> None:
    """Detect as detect.py does, without rounding boxes to whole px."""
    weights, image_size, output, *paths = sys.argv[1:]
    sys.argv = sys.argv[:1]
    import torch
    from yolov5.models.common import DetectMultiBackend
    from yolov5.utils.dataloaders import LoadImages
    from yolov5.utils.general import non_max_suppression, scale_boxes

    model = DetectMultiBackend(weights, device=torch.device("cpu"))
    found = {}
    for path in paths:
        for _, pixels, original, *_ in LoadImages(path, img_size=int(image_size), stride=model.stride):
            images = torch.from_numpy(pixels).float()[None] / 255
            (rows,) = non_max_suppression(model(images), conf_thres=0.25, iou_thres=0.45)
            rows[:, :4] = scale_boxes(images.shape[2:], rows[:, :4], original.shape)
            found[path] = rows.tolist()
    with open(output, "w") as file:
        json.dump({"names": model.names, "detections": found}, file)


main()
