"""The two detection heads of YOLOv5: the classic one with anchors, and the anchor-free one of the u models.

Both turn feature maps (B, C_l, H/s, W/s) into a list of raw maps, in training and in evaluation
alike; losses and post-processing know what the numbers mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import Detect

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


class AnchorHead(nn.Module):
    """Classic YOLOv5 head: one 1x1 convolution a level.

    Args:
        num_classes: C.
        anchors_px: (L, A, 2) widths and heights in px.
        channels: channels of each level's features.
        strides: pixels a cell, level by level.

    Attributes:
        anchors: float32 buffer (L, A, 2) in units of the level's stride, as in official checkpoints.
    """

    anchors: Tensor

    def __init__(
        self, num_classes: int, anchors_px: Tensor, channels: Sequence[int], strides: Sequence[int]
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.strides = tuple(strides)
        levels = torch.tensor(strides, dtype=torch.float32, device=anchors_px.device)
        self.register_buffer("anchors", anchors_px / levels[:, None, None])
        self.anchors_per_cell = anchors_px.shape[1]
        outputs = self.anchors_per_cell * (5 + num_classes)
        self.m = nn.ModuleList(nn.Conv2d(c, outputs, 1) for c in channels)
        self._initialise_biases()

    def _initialise_biases(self) -> None:
        """Start from what is likely: 8 objects in 640 px, class probability 0.6 / C.

        The idea is RetinaNet's (https://arxiv.org/abs/1708.02002, section 3.3).
        """
        for convolution, stride in zip(self.m, self.strides, strict=True):
            assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
            bias = convolution.bias.detach().view(self.anchors_per_cell, -1)  # (A, 5+C)
            bias[:, 4] += math.log(8 / (640 / stride) ** 2)
            bias[:, 5:] += math.log(0.6 / (self.num_classes - 0.99999))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Features (B, C_l, H/s, W/s) to maps (B, A, H/s, W/s, 5+C): x, y, w, h, objectness, classes."""
        maps = []
        for convolution, feature in zip(self.m, features, strict=True):
            raw = convolution(feature)  # (B, A*(5+C), H/s, W/s)
            batch, _, height, width = raw.shape
            raw = raw.view(batch, self.anchors_per_cell, -1, height, width)
            maps.append(raw.permute(0, 1, 3, 4, 2))  # (B, A, H/s, W/s, 5+C)
        return maps


class AnchorFreeHead(Detect):
    """ultralytics' decoupled head, stopped before it decodes.

    Args:
        num_classes: C.
        channels: channels of each level's features.
        strides: pixels a cell, level by level.
    """

    strides: tuple[int, ...]  # type: ignore[assignment]  # ultralytics keeps a cache of tensors there
    legacy = True  # plain convolutions in the class branch, as the official u checkpoints have

    def __init__(self, num_classes: int, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__(nc=num_classes, ch=tuple(channels))
        self.num_classes = num_classes
        self.strides = tuple(strides)
        # On the CPU also where a network is built on meta to count its parameters: bias_init reads them.
        self.stride = torch.tensor(strides, dtype=torch.float32, device="cpu")
        self.bias_init()

    def forward(self, features: list[Tensor]) -> list[Tensor]:  # type: ignore[override]
        """Features (B, C_l, H/s, W/s) to maps (B, 4*reg_max+C, H/s, W/s): l, t, r, b bins, then classes."""
        return [
            torch.cat((box(feature), cls(feature)), dim=1)
            for box, cls, feature in zip(self.cv2, self.cv3, features, strict=True)
        ]
