"""Convolutions of fused networks: of any part of a level, and of the coarser one beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from ctnet.fused.regions import Box, convolve, upsample
from ctnet.fused.upsampled_conv import add_convolved


@dataclass(frozen=True)
class Coarse:
    """A part of the next coarser level, to be upsampled.

    Attributes:
        x: Features (N,I,*box.size).
        box: Where they are in their level.
        size: Height and width of the whole level.
        align_corners: How they are upsampled.
    """

    x: Tensor
    box: Box
    size: tuple[int, int]
    align_corners: bool

    def upsample(self, wanted: Box) -> Tensor:
        """Returns a part of the finer level (N,I,*wanted.size)."""
        return upsample(self.x, self.box, wanted, self.size, self.align_corners)

    def convolve(self, y: Tensor, taps: Tensor, wanted: Box) -> None:
        """Adds to ``y`` (N,O,*wanted.size) a part of the finer level, upsampled and convolved."""
        add_convolved(y, self.x, taps, self.box, wanted, self.size, self.align_corners)


class Kernel(Protocol):
    """A convolution of a level and, where it has one, of the coarser level."""

    @property
    def weight(self) -> Tensor:
        """Kernel (O,I,k,k), or (O,1,k,k) of a depthwise one."""
        ...

    def __call__(self, x: Tensor, has: Box, wanted: Box, coarse: Coarse | None) -> Tensor:
        """Convolves.

        Args:
            x: Part of a level (N,I,*has.size).
            has: Where that is.
            wanted: Which part to return.
            coarse: Part of the coarser level whose upsampled channels come before the I.

        Returns:
            Answer (N,O,*wanted.size), channels last.
        """
        ...

    def scaled(self, scale: Tensor, shift: Tensor) -> Self:
        """Returns the convolution whose answer is scaled and shifted, by (O,) each."""
        ...


@dataclass(frozen=True)
class FullKernel:
    """A convolution whose kernel mixes channels and cells at once.

    Attributes:
        weight: Kernel (O,I,k,k).
        bias: Bias (O,), or None.
        taps: Kernel for features of the coarser level; None where they are upsampled first and
            are among the I.
        step: Stride of the convolution.
    """

    weight: Tensor
    bias: Tensor | None = None
    taps: Tensor | None = None
    step: int = 1

    def __call__(self, x: Tensor, has: Box, wanted: Box, coarse: Coarse | None) -> Tensor:
        """Convolves."""
        if coarse is not None and self.taps is None:
            x = torch.cat([coarse.upsample(has), x], 1)
        y = convolve(x, self.weight, self.bias, has, wanted, self.step)
        y = y.contiguous(memory_format=torch.channels_last)
        if coarse is not None and self.taps is not None:
            coarse.convolve(y, self.taps, wanted)
        return y

    def scaled(self, scale: Tensor, shift: Tensor) -> FullKernel:
        """Returns the convolution whose answer is scaled and shifted, by (O,) each."""
        taps = None if self.taps is None else self.taps * scale.repeat(3)
        weight = self.weight * scale[:, None, None, None]
        return replace(self, weight=weight, bias=shift, taps=taps)


@dataclass(frozen=True)
class SeparableKernel:
    """A 1 x 1 convolution and a depthwise one.

    The 1 x 1 commutes with upsampling: it acts on the coarser level, which is never joined with
    the other features.

    Attributes:
        weight: Depthwise kernel (O,1,k,k).
        pointwise: Kernel of the 1 x 1 (O,I,1,1).
        upsampled: The same for the coarser level (O,J,1,1), or None where there is none.
        bias: Bias (O,), or None.
    """

    weight: Tensor
    pointwise: Tensor
    upsampled: Tensor | None = None
    bias: Tensor | None = None

    def __call__(self, x: Tensor, has: Box, wanted: Box, coarse: Coarse | None) -> Tensor:
        """Convolves."""
        y = torch.conv2d(x, self.pointwise)
        if coarse is not None and self.upsampled is not None:
            y += replace(coarse, x=torch.conv2d(coarse.x, self.upsampled)).upsample(has)
        y = convolve(y, self.weight, self.bias, has, wanted)
        return y.contiguous(memory_format=torch.channels_last)

    def scaled(self, scale: Tensor, shift: Tensor) -> SeparableKernel:
        """Returns the convolution whose answer is scaled and shifted, by (O,) each."""
        return replace(self, weight=self.weight * scale[:, None, None, None], bias=shift)
