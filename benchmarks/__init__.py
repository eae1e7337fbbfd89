"""Paired measurements against yolov5 and ultralytics: ``python -m benchmarks.run``."""
