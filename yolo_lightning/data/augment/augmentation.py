"""Augmentation module: from a ``Batch`` of uint8 images to the network's input and its targets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ..batch import Batch
from .bilinear import Footprint
from .config import AugmentationConfig
from .mosaic import Layout
from .pipeline import Finish, View, carry_targets, plan, render, trace
from .randomness import SampleStream, uniforms
from .recent_images import RecentBuffers, RecentImages
from .warp import Warp

CPU_CHUNK_PX = 32 * 1024 - 1
"""Pixels rendered at once on a CPU without a compiler.

Their intermediate planes stay in the CPU's cache. From 32,768 elements on, torch would split each of the
thousands of small operations over threads and wait for them; with the cores busy with the loader's
processes, that costs a hundred times what it saves.
"""


def normalise(images: Tensor) -> Tensor:
    """Scale uint8 images (B, 3, H, W) to float32 0..1, as validation does; keeps the memory format."""
    return images.float() / 255


class Augmentation(nn.Module):
    """Batched augmentation on the device of the batch.

    The result for an image depends on (seed, epoch, index) and, for a mosaic, on the earlier batches of the
    epoch; on nothing else, and on no random generator.

    Args:
        config: Ranges and probabilities.
        seed: 0 to 2^63 - 1.
        recent_batches: Batches that mosaics draw from, the current one included. They take 4 bytes per
            pixel: 64 images of 640 px take 105 MB.

    Raises:
        InputError: ``seed`` or ``recent_batches`` is out of range.
    """

    seed: Tensor

    def __init__(self, config: AugmentationConfig, seed: int = 0, recent_batches: int = 8) -> None:
        super().__init__()
        if not 0 <= seed < 2**63:
            raise InputError(f"seed is {seed}: set it to a value between 0 and 2^63 - 1.")
        self.config = config
        self.recent = RecentImages(recent_batches)
        self.core = AugmentationCore(config)
        self.register_buffer("seed", torch.tensor(seed), persistent=False)

    def reset(self) -> None:
        """Forget all mosaic partners, as a new epoch does."""
        self.recent.reset()

    def remember(self, batch: Batch, epoch: int) -> None:
        """Add a batch to the mosaic partners of later batches in the epoch."""
        self.recent.write(batch, _scalar(epoch, torch.int64, batch.images.device))

    def compile_core(self, **options: Any) -> None:
        """Compile all but the bookkeeping of recent images into one graph, in place.

        Necessary on a GPU, which would otherwise launch hundreds of small kernels per batch.

        Args:
            options: Options of ``torch.compile``, such as ``mode`` or ``backend``.
        """
        self.core.compile(fullgraph=True, dynamic=False, **options)

    @torch.no_grad()
    def forward(
        self, batch: Batch, epoch: int | Tensor, mosaic: bool | Tensor = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Augment a batch, without waiting for the device.

        Args:
            batch: B letterboxed images of S x S px with N label rows.
            epoch: 0 or more, a number or a 0-d tensor.
            mosaic: False makes no mosaics (``close_mosaic``), with the same shapes.

        Returns:
            Images float32 (B, 3, S, S), 0..1, channels last; targets float32 (B, N', 5): class, x1, y1, x2,
            y2 in px; and the mask of their real rows, bool (B, N'). N' is 4 N, or 8 N if mixup is possible:
            room for every label of every tile. Real rows come first, the others are zero.
        """
        device = batch.images.device
        epoch_now = _scalar(epoch, torch.int64, device)
        buffers, rows, filled = self.recent.write(batch, epoch_now)
        images, targets, mask = self.core(
            buffers,
            rows,
            filled,
            batch.index,
            self.seed.to(device),
            epoch_now,
            _scalar(mosaic, torch.float32, device),
            batch.images.shape[-1],
        )
        return images, targets, mask


class AugmentationCore(nn.Module):
    """The compilable part of ``Augmentation``, a pure function of tensors."""

    def __init__(self, config: AugmentationConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        recent: RecentBuffers,
        rows: Tensor,
        filled: Tensor,
        index: Tensor,
        seed: Tensor,
        epoch: Tensor,
        mosaic: Tensor,
        size: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Augment the images in ``rows`` (B,) of ``recent``; see ``Augmentation.forward``."""
        uniform = uniforms(seed, epoch, index, SampleStream.END)  # (B, SampleStream.END)
        views, is_mixed, finish = plan(self.config, uniform, recent, rows, filled, mosaic, size)
        targets, mask = carry_targets(recent, views, is_mixed, finish, size)
        if torch.compiler.is_compiling() or rows.device.type != "cpu":
            y = torch.arange(size, device=rows.device)
            footprints = [trace(self.config, view, finish, y, size) for view in views]
            planes = render(self.config, recent.pixels, footprints, finish.blend, finish.gains)
            images = torch.stack(planes, dim=-1)
        else:
            images = self._render_in_chunks(recent.pixels, views, finish, size)
        return images.permute(0, 3, 1, 2), targets, mask  # (B, S, S, 3) -> (B, 3, S, S), channels last

    def _render_in_chunks(self, pixels: Tensor, views: list[View], finish: Finish, size: int) -> Tensor:
        images = torch.empty(finish.blend.shape[0], size, size, 3)
        rows = max(1, CPU_CHUNK_PX // size)
        whole: list[Footprint] = []
        if self.config.axis_aligned:  # a footprint then is small: some rows and columns
            whole = [trace(self.config, view, finish, torch.arange(size), size) for view in views]
        for number, image in enumerate(images):
            one_views = [
                View(Layout(*(t[number, None] for t in layout)), Warp(*(t[number, None] for t in warp)))
                for layout, warp in views
            ]
            one_finish = Finish(*(t[number, None] for t in finish))
            for start in range(0, size, rows):
                stop = min(start + rows, size)
                footprints = [footprint.crop(number, start, stop) for footprint in whole] or [
                    trace(self.config, view, one_finish, torch.arange(start, stop), size)
                    for view in one_views
                ]
                planes = render(self.config, pixels, footprints, one_finish.blend, one_finish.gains)
                for channel, plane in enumerate(planes):
                    image[start:stop, :, channel] = plane[0]
        return images


def _scalar(value: float | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A 0-d tensor filled on the device: copying it there would wait for the device."""
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype, non_blocking=True)
    return torch.full((), value, dtype=dtype, device=device)
