"""An encoded image: what every palette on it shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import torch
import torch.nn.functional as F
from torch import Tensor

from ctnet.blocks.decoder_config import LEVELS
from ctnet.blocks.encoders import Encoder

LOWEST, HIGHEST = -0.5, 1.5
"""Images with values beyond these are not in [0, 1]; augmentation may overshoot a little."""

GRID = LEVELS[-1]
"""Images are padded inside the model to multiples of this."""


def pad_to_grid(x: Tensor) -> Tensor:
    """Repeats the last row and column of (N,C,H,W) up to multiples of 32."""
    height, width = x.shape[-2:]
    bottom, right = -height % GRID, -width % GRID
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def prepare_image(image: Tensor, dtype: torch.dtype) -> Tensor:
    """Checks an image and pads it to multiples of 32.

    Args:
        image: RGB in [0, 1] (N,3,H,W) or (3,H,W), float, any size.
        dtype: Type of the result.

    Returns:
        The padded batch (N,3,H',W').

    Raises:
        ValueError: If the shape or type is another.
    """
    if not isinstance(image, Tensor):
        raise ValueError(
            f"an image is a float tensor of RGB in [0, 1]; got {type(image).__name__}. "
            "model.predict takes any image."
        )
    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or image.shape[1] != 3 or 0 in image.shape:
        raise ValueError(f"an image is (N,3,H,W) or (3,H,W); got {tuple(image.shape)}.")
    if not image.is_floating_point():
        raise ValueError(
            f"an image is float RGB in [0, 1]; got {image.dtype}. Divide 8-bit values by 255, "
            "or use model.predict, which takes any image."
        )
    _check_range(image)
    return pad_to_grid(image.to(dtype))


def _check_range(image: Tensor) -> None:
    # Values are no part of a graph that is traced, and tensors without data have none.
    if torch.compiler.is_compiling() or image.is_meta:
        return
    low, high = (float(x) for x in image.detach().aminmax())
    if low < LOWEST or high > HIGHEST:
        raise ValueError(
            f"an image is RGB in [0, 1]; got values from {low:.3g} to {high:.3g}. Divide 8-bit "
            "values by 255, and leave normalizing to the network."
        )


class Pyramids(Sequence[list[Tensor]]):
    """Feature pyramids at strides 2 to 32, one for each encoder, computed when first asked for.

    Args:
        image: Normalized, padded image (N,3,H',W').
        encoders: The encoders.
        known: Pyramids that are known already, by the encoder's number.
    """

    def __init__(
        self,
        image: Tensor,
        encoders: Sequence[Encoder],
        known: dict[int, list[Tensor]] | None = None,
    ) -> None:
        self._image = image
        self._encoders = encoders
        self._known = known or {}

    def __len__(self) -> int:
        return len(self._encoders)

    @overload
    def __getitem__(self, number: int) -> list[Tensor]: ...
    @overload
    def __getitem__(self, number: slice) -> list[list[Tensor]]: ...
    def __getitem__(self, number: int | slice) -> list[Tensor] | list[list[Tensor]]:
        if isinstance(number, slice):
            return [self[k] for k in range(len(self))[number]]
        number = range(len(self))[number]
        if number not in self._known:
            self._known[number] = self._encoders[number](self._image)
        return self._known[number]

    def select(self, rows: Tensor) -> Pyramids:
        """Takes images of the batch by a mask (N,) or indices."""
        known = {number: [x[rows] for x in found] for number, found in self._known.items()}
        return Pyramids(self._image[rows], self._encoders, known)


@dataclass(frozen=True)
class Features:
    """An encoded image, ready for any number of palettes.

    Attributes:
        image: Normalized, padded image (N,3,H',W').
        pyramids: The features at strides 2 to 32, one list for each encoder.
        size: Height and width before padding.
    """

    image: Tensor
    pyramids: Pyramids
    size: tuple[int, int]

    def select(self, rows: Tensor) -> Features:
        """Takes images of the batch by a mask (N,) or indices."""
        return Features(self.image[rows], self.pyramids.select(rows), self.size)
