"""Random crops: where they lie in their photographs, and how their colors are changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

JITTER = 0.3
"""Largest relative change of brightness, contrast and saturation."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of R, G and B in brightness (ITU-R BT.601)."""

CHANCES = 7
"""Random numbers that a crop takes: scale, row, column, flip, and three for its colors."""


@dataclass(frozen=True)
class Crops:
    """Where the crops of a batch lie in their images, and how they are colored.

    Attributes:
        scale: Output pixels for a pixel of the image (N,).
        left: First column of the crop, in pixels of the image (N,).
        top: First row (N,).
        flip: Whether the crop is mirrored (N,).
        color: Factors of brightness, contrast and saturation (N,3).
    """

    scale: Tensor
    left: Tensor
    top: Tensor
    flip: Tensor
    color: Tensor

    def to(self, device: torch.device) -> Crops:
        """Moves all tensors."""
        return Crops(*(getattr(self, entry.name).to(device) for entry in fields(self)))


def draw_crops(
    chance: np.ndarray,
    sizes: Tensor,
    size: int,
    scale: tuple[float, float],
    focus: Mapping[int, tuple[int, int]] | None = None,
) -> Crops:
    """Makes crops of random numbers.

    Args:
        chance: Random numbers in [0, 1) (N,:data:`CHANCES`).
        sizes: Height and width of each image (N,2).
        size: Side of the crops in pixels.
        scale: Smallest and largest scale.
        focus: Row and column of a pixel that a crop shall hold, by the crop's number.

    Returns:
        Crops on the CPU; one that is larger than its image has it somewhere inside.
    """
    factor = scale[0] + chance[:, 0] * (scale[1] - scale[0])
    room = sizes.numpy() - size / factor[:, None]
    corner = chance[:, 1:3] * room
    for number, pixel in (focus or {}).items():
        side, most = size / factor[number], room[number]
        # Less than a side before the pixel, in the image where that is large enough.
        first = np.clip(np.array(pixel) + 1 - side, np.minimum(0, most), np.maximum(0, most))
        last = np.clip(np.array(pixel), np.minimum(0, most), np.maximum(0, most))
        corner[number] = first + chance[number, 1:3] * (last - first)
    color = 1 + JITTER * (2 * chance[:, 4:] - 1)
    factors, left, top, colors = (
        torch.from_numpy(x).float() for x in (factor, corner[:, 1], corner[:, 0], color)
    )
    return Crops(factors, left, top, torch.from_numpy(chance[:, 3] < 0.5), colors)


def recolor(image: Tensor, factors: Tensor) -> Tensor:
    """Changes brightness, contrast and saturation.

    Args:
        image: Images (N,3,H,W) in [0, 1].
        factors: Factors of the three (N,3).
    """
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    image = (image * brightness).clamp(0, 1)
    luma = image.new_tensor(LUMA)[None, :, None, None]
    mean = (image * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    image = torch.lerp(mean.expand_as(image), image, contrast).clamp(0, 1)
    gray = (image * luma).sum(1, keepdim=True)
    return torch.lerp(gray.expand_as(image), image, saturation).clamp(0, 1)
