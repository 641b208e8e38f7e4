"""Joint augmentation of an image and its labels through torchvision's v2 transforms.

Labels are tensors of types that v2 dispatches on: class maps and validity are plain masks, edge
and saliency strengths are resampled with antialiasing, and a flip also mirrors the normals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as TF

from ctnet.tasks import IGNORE

JITTER = 0.3
"""Largest relative change of brightness, contrast and saturation."""


class Strength(tv_tensors.Mask):  # type: ignore[misc]
    """Soft map (1,H,W) uint8: resampled smoothly, untouched by color changes."""


class Uncolored(tv_tensors.Mask):  # type: ignore[misc]
    """A photograph (3,H,W) uint8 that is resampled and cut as the image is and keeps its colors."""


class Normals(tv_tensors.Mask):  # type: ignore[misc]
    """Surface normals (3,H,W) uint8, (n+1)/2 * 255: x is mirrored with the image."""


class Validity(tv_tensors.Mask):  # type: ignore[misc]
    """Where each task is labeled (K,H,W), 0 or 1: padding makes 0."""


@TF.register_kernel(functional=TF.resize, tv_tensor_cls=Uncolored)  # type: ignore[untyped-decorator]
@TF.register_kernel(functional=TF.resize, tv_tensor_cls=Strength)  # type: ignore[untyped-decorator]
def _resize_strength(label: Tensor, size: list[int], **_: Any) -> Tensor:
    resized = TF.resize_image(
        label.as_subclass(Tensor), size, interpolation=InterpolationMode.BILINEAR, antialias=True
    )
    wrapped: Tensor = tv_tensors.wrap(resized, like=label)
    return wrapped


@TF.register_kernel(functional=TF.horizontal_flip, tv_tensor_cls=Normals)  # type: ignore[untyped-decorator]
def _flip_normals(label: Tensor) -> Tensor:
    flipped = TF.horizontal_flip_mask(label.as_subclass(Tensor)).clone()
    flipped[0] = 255 - flipped[0]
    wrapped: Tensor = tv_tensors.wrap(flipped, like=label)
    return wrapped


class AroundFocus:
    """Cuts a sample to the part in which every crop holds a pixel that is drawn from ``focus``.

    Args:
        size: Side of the crops in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        """Takes ``focus`` (1,H,W), 1 where a pixel may be drawn, off the sample and cuts the rest.

        Without it, or without a pixel in it, the sample stays whole.
        """
        focus = sample.get("focus")
        if focus is None:
            return sample
        sample = {name: value for name, value in sample.items() if name != "focus"}
        pixels = focus[0].nonzero()
        if not len(pixels):
            return sample
        y, x = pixels[int(torch.randint(len(pixels), ()))].tolist()
        top, left = max(0, y - self.size + 1), max(0, x - self.size + 1)
        height = min(focus.shape[1], y + self.size) - top
        width = min(focus.shape[2], x + self.size) - left
        return {name: TF.crop(v, top, left, height, width) for name, v in sample.items()}


def training_transform(
    size: int, scale: tuple[float, float], long_side: int = 320
) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Builds the augmentation: scale, crop, flip, color.

    Args:
        size: Side of the square crop in pixels.
        scale: Smallest and largest scale of the image relative to ``long_side``.
        long_side: Longest side of an image at scale 1.

    Returns:
        A function from named tensors (uint8) to named tensors of the crop's size. Where the crop
        reaches past the image, nothing is labeled: class maps hold 255, ``valid`` holds 0. A
        tensor ``focus`` says which pixels the crop shall hold one of (:class:`AroundFocus`).
    """
    transform: Callable[[dict[str, Tensor]], dict[str, Tensor]] = v2.Compose(
        [
            v2.ScaleJitter((long_side, long_side), scale_range=scale, antialias=True),
            AroundFocus(size),
            v2.RandomCrop(
                size,
                pad_if_needed=True,
                fill={
                    tv_tensors.Image: 127,
                    Uncolored: 127,
                    tv_tensors.Mask: IGNORE,
                    Validity: 0,
                    "others": 0,
                },
            ),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(JITTER, JITTER, JITTER),
        ]
    )
    return transform


def as_training_tensors(sample: dict[str, Tensor]) -> dict[str, Tensor]:
    """Strips the label types off the tensors of a transformed sample."""
    return {name: value.as_subclass(torch.Tensor) for name, value in sample.items()}
