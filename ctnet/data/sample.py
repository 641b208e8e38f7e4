"""Samples for training and evaluation: images with palettes and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One image, or a batch of them (a leading N), with request and labels.

    Attributes:
        image: RGB in [0, 1] (3,H,W).
        palette: Task ids (H,W) int64, 255 = nothing asked.
        labels: By task name: class ids (H,W) int64 with 255 = not labeled, strengths (H,W) in
            [0, 1], unit normals (3,H,W). Where a label is missing its values mean nothing.
        valid: Where each task is labeled (K,H,W).
        uncolored: For crops, the image (3,H,W) before its colors were changed.
        inside: For crops, where (H,W) they lie in the photograph.
    """

    image: Tensor
    palette: Tensor
    labels: dict[str, Tensor]
    valid: Tensor
    uncolored: Tensor | None = None
    inside: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Sample:
        """Changes every tensor in one way."""
        labels = {name: change(label) for name, label in self.labels.items()}
        uncolored, inside = (
            None if x is None else change(x) for x in (self.uncolored, self.inside)
        )
        return Sample(
            change(self.image), change(self.palette), labels, change(self.valid), uncolored, inside
        )

    def to(self, device: torch.device) -> Sample:
        """Moves all tensors."""
        return self.map(lambda x: x.to(device, non_blocking=True))

    def at_stride(self, stride: int) -> Sample:
        """Takes the pixels at the centers of cells of so many pixels a side."""
        cells = (..., slice(stride // 2, None, stride), slice(stride // 2, None, stride))
        return self.map(lambda x: x[cells])

    def select(self, rows: Tensor | slice) -> Sample:
        """Takes images of a batch by a mask (N,), indices or a slice."""
        return self.map(lambda x: x[rows])
