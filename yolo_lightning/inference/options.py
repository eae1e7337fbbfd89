"""Options of what is found in images, and of what ``predict`` reads and writes."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError

Classes = list[int | str] | int | str
"""Classes by name or number, or one of them."""


@dataclass(frozen=True)
class FindOptions:
    """What is found in an image.

    Raises:
        InputError: a value is out of range.
    """

    max_detections: int = 300
    """Detections of an image, best first."""
    classes: Classes | None = None
    """The only classes that are found, by name or number; all if left out."""
    class_agnostic: bool = False
    """Let a box suppress overlapping ones of other classes, too."""
    augment: bool = False
    """Test-time augmentation: three passes at scales 1, 0.83 (mirrored) and 0.67."""
    tile_size: int = 0
    """Side in px of the overlapping tiles in which a large image is seen at full resolution, beside the whole
    image scaled to a tile; 0: no tiles."""
    tile_overlap: float = 0.2
    """Least share of a tile that its neighbour shows, too."""

    def __post_init__(self) -> None:
        if self.max_detections < 1:
            raise InputError(f"max_detections is {self.max_detections}; give 1 or more")
        if self.tile_size < 0:
            raise InputError(f"tile_size is {self.tile_size}; give 0 for no tiles, or a multiple of 32")
        if not 0 <= self.tile_overlap <= 0.9:
            raise InputError(f"tile_overlap is {self.tile_overlap}; give a share from 0 to 0.9")


@dataclass(frozen=True)
class PredictOptions(FindOptions):
    """What ``predict`` finds, and what it writes to the run directory.

    Raises:
        InputError: a value is out of range.
    """

    ensemble: list[str] | str | None = None
    """More checkpoints or weights of the same classes, whose candidates join those of the first."""
    video_stride: int = 1
    """Frames of a video or stream from one that is predicted to the next."""
    save_media: bool = True
    """Write annotated pictures and videos, which takes longer than the detection itself."""
    save_json: bool = True
    """Write predictions.json, a COCO results list."""
    save_txt: bool = False
    """Write a YOLO label file for each image and frame in which something is found."""
    save_conf: bool = False
    """Put scores behind the boxes of save_txt."""
    save_csv: bool = False
    """Write predictions.csv, a detection a line."""
    save_crop: bool = False
    """Write a picture of each object, in a folder of its class."""
    line_width: int = 0
    """Width of drawn lines in px; 0: by the size of the image."""
    hide_labels: bool = False
    """Draw no names of classes."""
    hide_scores: bool = False
    """Draw no scores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("video_stride", 1), ("line_width", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; give {least} or more")
