"""Detection heads: the classic one with anchors, and the anchor-free one of the u models.

A head turns feature maps into raw maps, in training and in evaluation alike. It builds the loss that trains
it and decodes its own maps, so that nothing outside ``model`` knows one head from another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from .blocks import Detect
from .boxes import boxes_from_distances, cell_corners, xywh_to_xyxy, xyxy_to_xywh
from .losses import AnchorFreeLoss, AnchorLoss, DetectionLoss, LossConfigs

P5_ANCHORS_PX = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
"""Width and height in px of the classic anchors, strides 8, 16, 32."""

P6_ANCHORS_PX = (
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)
"""Width and height in px of the classic anchors, strides 8, 16, 32, 64."""

Layout = Literal["yolov5", "ultralytics"]
"""Layout of an exported model's output, by the program whose exports have it; see ``Head.export_rows``."""


class Head(Protocol):
    """Last block of a :class:`~.network.DetectionNetwork`; an ``nn.Module``."""

    num_classes: int
    strides: tuple[int, ...]  # pixels a cell, level by level, finest first
    layout: Layout  # of export_rows

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Features (B, C_l, H/s, W/s) to raw maps, one a level, in a shape that loss and decoding know."""

    def build_loss(self, configs: LossConfigs) -> DetectionLoss:
        """The loss that trains this head, with its own options among ``configs``."""

    def decode(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Boxes and class scores of raw maps of any precision.

        Returns:
            boxes, float32 (B, K, 4) xyxy in px of the network's input, not clipped; scores, float32
            (B, K, C) in 0..1.
        """

    def export_rows(self, maps: Sequence[Tensor]) -> Tensor:
        """One tensor of boxes and scores, in the layout that programs expect of an exported model.

        Returns:
            float32, with boxes as xywh in px. ``yolov5``: (B, K, 5+C), box, objectness, and the probability
            of each class given an object. ``ultralytics``: (B, 4+C, K), box and scores.
        """


class AnchorHead(nn.Module):
    """Classic YOLOv5 head: one 1x1 convolution a level.

    Args:
        num_classes: C.
        anchors: (L, A, 2) widths and heights in px, or the number A.
        channels: channels of each level's features.
        strides: pixels a cell, level by level.

    Attributes:
        anchors: float32 buffer (L, A, 2) in units of the level's stride, as in official checkpoints.
        needs_anchors: True if only their number was given: they are squares then, until the data give them.
    """

    anchors: Tensor
    layout: Layout = "yolov5"

    def __init__(
        self, num_classes: int, anchors: Tensor | int, channels: Sequence[int], strides: Sequence[int]
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.strides = tuple(strides)
        self.needs_anchors = not isinstance(anchors, Tensor)
        given = anchors if isinstance(anchors, Tensor) else _square_anchors_px(anchors, strides)
        anchors_px = _in_order_of(strides, given)
        levels = torch.tensor(strides, dtype=torch.float32, device=anchors_px.device)
        self.register_buffer("anchors", anchors_px / levels[:, None, None])
        self.anchors_per_cell = anchors_px.shape[1]
        outputs = self.anchors_per_cell * (5 + num_classes)
        self.m = nn.ModuleList(nn.Conv2d(c, outputs, 1) for c in channels)
        # Start from likely outputs, as in RetinaNet (https://arxiv.org/abs/1708.02002, section 3.3):
        # 8 objects in 640 px, class probability 0.6 / C.
        for convolution, stride in zip(self.m, self.strides, strict=True):
            assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
            bias = convolution.bias.detach().view(self.anchors_per_cell, -1)  # (A, 5+C)
            bias[:, 4] += math.log(8 / (640 / stride) ** 2)
            bias[:, 5:] += math.log(0.6 / (num_classes - 0.99999))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Features (B, C_l, H/s, W/s) to maps (B, A, H/s, W/s, 5+C): x, y, w, h, objectness, classes."""
        maps = []
        for convolution, feature in zip(self.m, features, strict=True):
            raw = convolution(feature)  # (B, A*(5+C), H/s, W/s)
            batch, _, height, width = raw.shape
            raw = raw.view(batch, self.anchors_per_cell, -1, height, width)
            maps.append(raw.permute(0, 1, 3, 4, 2))  # (B, A, H/s, W/s, 5+C)
        return maps

    def build_loss(self, configs: LossConfigs) -> AnchorLoss:
        """The classic loss."""
        return AnchorLoss(self.anchors, self.strides, self.num_classes, configs.anchor)

    def decode(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Boxes and class scores, see :meth:`Head.decode`."""
        levels = [self._decode_level(level, raw) for level, raw in enumerate(maps)]
        boxes = torch.cat([box.flatten(1, 3) for box, _ in levels], dim=1)
        # Multiplied before they are joined: these are the largest tensors, and a CPU waits for its memory.
        scores = [(rest[..., 1:] * rest[..., :1]).flatten(1, 3) for _, rest in levels]
        return xywh_to_xyxy(boxes), torch.cat(scores, dim=1)  # (B, K, 4), (B, K, C)

    def export_rows(self, maps: Sequence[Tensor]) -> Tensor:
        """Rows (B, K, 5+C), see :meth:`Head.export_rows`; K = sum of A * H * W.

        With s the sigmoid of the raw value, a cell at column i and row j of a level and an anchor of
        w x h px: centre = (2 s - 0.5 + (i, j)) * stride, size = (2 s)^2 * (w, h); all else is s (the YOLOv5
        head since v2.0, https://github.com/ultralytics/yolov5/issues/471).
        """
        levels = [torch.cat(self._decode_level(n, raw), dim=-1) for n, raw in enumerate(maps)]
        return torch.cat([level.flatten(1, 3) for level in levels], dim=1)

    def _decode_level(self, level: int, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes xywh (B, A, H, W, 4) in px of a raw map, and objectness and classes (B, A, H, W, 1+C)."""
        stride = self.strides[level]
        activated = raw.float().sigmoid()  # (B, A, H, W, 5+C)
        height, width = raw.shape[2:4]
        cells = cell_corners(height, width, raw.device)  # (H, W, 2)
        centre = (activated[..., :2] * 2 - 0.5 + cells) * stride
        anchor_px = self.anchors[level].to(device=raw.device, dtype=torch.float32) * stride
        doubled = activated[..., 2:4] * 2
        size = doubled * doubled * anchor_px[:, None, None]  # LiteRT's converter has no power
        return torch.cat((centre, size), dim=-1), activated[..., 4:]


class AnchorFreeHead(Detect):
    """Decoupled head of ultralytics, without its decoding in ``forward``.

    Args:
        num_classes: C.
        channels: channels of each level's features.
        strides: pixels a cell, level by level.
    """

    strides: tuple[int, ...]  # type: ignore[assignment]  # ultralytics keeps a cache of tensors there
    layout: Layout = "ultralytics"
    legacy = True  # plain convolutions in the class branch, as the official u checkpoints have

    def __init__(self, num_classes: int, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__(nc=num_classes, ch=tuple(channels))
        self.num_classes = num_classes
        self.strides = tuple(strides)
        # On the CPU even for a network on meta, built to count its parameters: bias_init reads the values.
        self.stride = torch.tensor(strides, dtype=torch.float32, device="cpu")
        self.bias_init()

    def forward(self, features: list[Tensor]) -> list[Tensor]:  # type: ignore[override]
        """Features (B, C_l, H/s, W/s) to maps (B, 4*reg_max+C, H/s, W/s): l, t, r, b bins, then classes."""
        return [
            torch.cat((box(feature), cls(feature)), dim=1)
            for box, cls, feature in zip(self.cv2, self.cv3, features, strict=True)
        ]

    def build_loss(self, configs: LossConfigs) -> AnchorFreeLoss:
        """The loss of the u models."""
        return AnchorFreeLoss(self.strides, self.num_classes, configs.anchor_free, reg_max=self.reg_max)

    def decode(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Boxes and class scores, see :meth:`Head.decode`; K = sum of H * W."""
        boxes, scores = [], []
        for raw, stride in zip(maps, self.strides, strict=True):
            height, width = raw.shape[-2:]
            rows = raw.float().flatten(2).transpose(1, 2)  # (B, H*W, 4*reg_max+C)
            logits = rows[..., : 4 * self.reg_max].unflatten(-1, (4, self.reg_max))
            centre = cell_corners(height, width, raw.device).flatten(0, 1) + 0.5  # (H*W, 2)
            boxes.append(boxes_from_distances(logits.softmax(dim=-1), centre) * stride)
            scores.append(rows[..., 4 * self.reg_max :].sigmoid())
        return torch.cat(boxes, dim=1), torch.cat(scores, dim=1)  # (B, K, 4), (B, K, C)

    def export_rows(self, maps: Sequence[Tensor]) -> Tensor:
        """Columns (B, 4+C, K), see :meth:`Head.export_rows`."""
        boxes, scores = self.decode(maps)
        return torch.cat((xyxy_to_xywh(boxes), scores), dim=-1).transpose(1, 2)


def _in_order_of(strides: Sequence[int], anchors_px: Tensor) -> Tensor:
    """Anchors (L, A, 2) that grow as the strides do: those of a YAML may begin with the coarsest level.

    From ``check_anchor_order`` of ultralytics/yolov5 v7.0 (``utils/autoanchor.py``).
    """
    area = anchors_px.prod(dim=-1).mean(dim=-1)  # (L,); on meta no values to branch on
    is_reversed = (area[-1] - area[0]) * (strides[-1] - strides[0]) < 0
    return torch.where(is_reversed, anchors_px.flip(0), anchors_px)


def _square_anchors_px(number: int, strides: Sequence[int]) -> Tensor:
    """Squares of 4 to 8 strides, (L, A, 2) in px: RetinaNet's sizes (https://arxiv.org/abs/1708.02002)."""
    sides = 4 * 2 ** (torch.arange(number) / number)  # (A,) in strides
    return (torch.tensor(strides)[:, None] * sides)[..., None].repeat(1, 1, 2)


def build_detect(
    num_classes: int, channels: Sequence[int], strides: Sequence[int], anchors: Tensor | int | None
) -> Head:
    """The head of ``Detect`` in a model YAML: anchor-free unless the YAML has anchors.

    ``anchors`` are (L, A, 2) in px, or the number A.
    """
    if anchors is None:
        return AnchorFreeHead(num_classes, channels, strides)
    return AnchorHead(num_classes, anchors, channels, strides)


HEADS: dict[str, Callable[[int, Sequence[int], Sequence[int], Tensor | int | None], Head]] = {
    "Detect": build_detect
}
"""Builder of a head, by its name in the last row of a model YAML."""
