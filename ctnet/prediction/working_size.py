"""The size at which a network sees an image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ctnet.images import RGB

MIN_LONG_SIDE = 32
"""Smallest working size: one cell of the coarsest level."""


class Module(Protocol):
    """A module, as far as its mode and the place of its parameters matter."""

    def modules(self) -> Iterator[nn.Module]:
        """Yields all its parts."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yields its parameters."""
        ...

    def eval(self) -> Any:
        """Sets eval mode."""
        ...


def check_long_side(long_side: int) -> None:
    """Checks a working size.

    Raises:
        ValueError: If it is smaller than :data:`MIN_LONG_SIDE`.
    """
    if not isinstance(long_side, int | np.integer) or long_side < MIN_LONG_SIDE:
        raise ValueError(
            f"long_side is a whole number of at least {MIN_LONG_SIDE} pixels; got {long_side!r}."
        )


def working_shape(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """Returns height and width at which a network sees an image of a height and width."""
    height, width = size
    scale = min(1, long_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def network_input(model: Module, image: RGB, long_side: int) -> Tensor:
    """Scales an image down to the working size: (1,3,h,w) in [0, 1] on the model's device."""
    size = image.shape[0], image.shape[1]
    height, width = working_shape(size, long_side)
    if (height, width) != size:
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
        image = np.array(resized)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
    first = next(model.parameters())
    pixels = pixels.to(first.device, first.dtype) / 255
    return pixels.contiguous(memory_format=torch.channels_last)
