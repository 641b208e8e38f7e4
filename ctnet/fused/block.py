"""A task composition block for inference: a convolution and one look-up for each cell, or none.

In eval mode the norm's statistics (eq. 1) are constants: they fold into the convolution and into
beta. A convolution is left, and a table of scales and shifts. Where a level holds one mixture only,
its scale and shift fold into the convolution as well. On a CPU, wide features that a stage would
upsample are convolved before that; see :mod:`ctnet.fused.upsampled_conv`. The pixels that a
subpixel stage gives stay channels of their cells up to the answer: their requests are rearranged,
not they.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctnet.blocks.conditioned_batch_norm import ConditionedBatchNorm
from ctnet.blocks.palette_pyramid import MixtureMap
from ctnet.blocks.task_composition import SeparableConv, TaskCompositionBlock
from ctnet.fused.convolutions import Coarse, FullKernel, Kernel, SeparableKernel
from ctnet.fused.folding import fold_block
from ctnet.fused.regions import Box, whole
from ctnet.fused.scale_shift import Step
from ctnet.fused.upsampled_conv import split_taps

WIDE = 100
"""Smallest number of channels for which features are convolved before they are upsampled."""


@dataclass(frozen=True)
class Affine:
    """Scales and shifts of a conditioned norm, from mixtures of tasks.

    Attributes:
        first: First layer's answer to each task's embedding (K,hidden), without bias.
        first_bias: Its bias (hidden,).
        second: Layer to scales and shifts (hidden,2C), the norm's statistics folded in.
        second_bias: Its bias (2C,).
    """

    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor

    def table(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Returns scales and shifts (M,C) of mixtures (M,K)."""
        hidden = F.leaky_relu_(torch.addmm(self.first_bias, weights.to(self.first), self.first))
        scale, shift = torch.addmm(self.second_bias, hidden, self.second).chunk(2, 1)
        return scale.contiguous(), shift.contiguous()

    @classmethod
    def of(cls, norm: ConditionedBatchNorm, embeddings: Tensor, bias: Tensor) -> Affine:
        """Builds those of h' = scale (W x) + shift, where ``bias`` (C,) is added to W x."""
        gamma, beta = norm.gamma, norm.beta
        return cls(
            embeddings @ norm.shared.weight.T,
            norm.shared.bias,
            torch.cat([gamma.weight, bias[:, None] * gamma.weight + beta.weight]).T.contiguous(),
            torch.cat([gamma.bias, bias * gamma.bias + beta.bias]),
        )


@dataclass(frozen=True)
class Prepared:
    """A convolution of an image that is the same for every task.

    Attributes:
        y: What it gave, before scale, shift and activation (N,C,h,w).
        answer: Memory for the answer of one task after another.
    """

    y: Tensor
    answer: Tensor


@dataclass(frozen=True)
class FusedBlock:
    """A convolution, what is left of its norm, and a leaky ReLU.

    Attributes:
        stride: Stride of the level at which it works.
        kernel: The convolution, the norm's statistics folded in; without bias if conditioned.
        affine: Scales and shifts of a conditioned block, None of a plain one.
        step: How scales and shifts are applied.
        factor: Cells of its level in each direction for one of the convolution's answer, whose
            channels are theirs: 2 of a subpixel block.
        folded: Kernels by task, of those that were asked for everywhere.
    """

    stride: int
    kernel: Kernel
    affine: Affine | None
    step: Step
    factor: int = 1
    folded: dict[int, Kernel] = field(default_factory=dict, repr=False)

    def __call__(
        self,
        x: Tensor,
        has: Box,
        wanted: Box,
        level: MixtureMap | None,
        coarse: Coarse | None = None,
    ) -> Tensor:
        """Maps a part of a level (N,I,*has.size), and of the coarser one, to (N,O,*wanted.size).

        The level of mixtures is of the cells that are wanted, or with a factor of theirs.
        """
        if level is None or level.index is None:
            return F.leaky_relu_(self._kernel(level)(x, has, wanted, coarse))
        y = self.kernel(x, has, wanted, coarse)
        scale, shift = self._table(level)
        cells = y.permute(0, 2, 3, 1).view(-1, scale.shape[1])
        self.step(cells, scale, shift, self._rows(level.index))
        return y

    def _rows(self, index: Tensor) -> Tensor:
        """Returns the table's row of each cell, in the order in which the features have them."""
        if self.factor == 1:
            return index.flatten()
        n, height, width = index.shape
        f = self.factor
        return index.view(n, height // f, f, width // f, f).transpose(2, 3).flatten()

    def prepare(self, x: Tensor, size: tuple[int, int], wanted: tuple[int, int]) -> Prepared:
        """Convolves a whole level of a size: what does not depend on the request."""
        y = self.kernel(x, whole(size), whole(wanted), None)
        return Prepared(y, torch.empty_like(y))

    def finish(self, prepared: Prepared, level: MixtureMap) -> Tensor:
        """Turns what :meth:`prepare` gave into the answer where one mixture is everywhere."""
        scale, shift = (row.view(1, -1, 1, 1) for row in self._table(level))
        return F.leaky_relu_(torch.addcmul(shift, prepared.y, scale, out=prepared.answer))

    def _table(self, level: MixtureMap) -> tuple[Tensor, Tensor]:
        scale, shift = cast(Affine, self.affine).table(level.weights)
        dtype = self.kernel.weight.dtype
        return scale.to(dtype), shift.to(dtype)

    def _kernel(self, level: MixtureMap | None) -> Kernel:
        """Returns the convolution for one mixture everywhere; those of tasks are kept."""
        if level is None:
            return self.kernel
        shares: list[float] = level.weights[0].tolist()
        key = shares.index(1) if 1 in shares else None
        if key in self.folded:
            return self.folded[key]
        scale, shift = (x[0].repeat(self.factor**2) for x in self._table(level))
        kernel = self.kernel.scaled(scale, shift)
        if key is not None:
            self.folded[key] = kernel
        return kernel


def fuse_block(
    block: TaskCompositionBlock,
    embeddings: Tensor | None,
    dtype: torch.dtype,
    step: Step,
    upsampled: int = 0,
) -> FusedBlock:
    """Fuses a block, the first ``upsampled`` of whose channels come from the coarser level."""
    norm, factor = block.norm, block.factor
    weight, bias = fold_block(block)
    kernel = _kernel(block.conv, _by_pixel(weight.to(dtype), factor), factor, upsampled)
    if isinstance(norm, ConditionedBatchNorm):
        affine = Affine.of(norm, cast(Tensor, embeddings), bias)
        return FusedBlock(block.stride, kernel, affine, step, factor)
    plain = replace(kernel, bias=bias.to(dtype).repeat(factor**2))
    return FusedBlock(block.stride, plain, None, step, factor)


def _kernel(
    conv: nn.Module, weight: Tensor, factor: int, upsampled: int
) -> FullKernel | SeparableKernel:
    """Arranges a kernel (O,I,k,k), the norm's statistics folded in."""
    if isinstance(conv, SeparableConv):
        pointwise = _by_pixel(conv.pointwise.weight.to(weight), factor)
        coarse = _last(pointwise[:, :upsampled]) if upsampled else None
        return SeparableKernel(_last(weight), _last(pointwise[:, upsampled:]), coarse)
    taps = None
    if upsampled >= WIDE and weight.device.type == "cpu":
        weight, taps = weight[:, upsampled:], split_taps(weight[:, :upsampled])
    return FullKernel(_last(weight), taps=taps, step=cast(nn.Conv2d, conv).stride[0])


def _by_pixel(weight: Tensor, factor: int) -> Tensor:
    """Orders outputs by pixel of the cell, then channel, instead of channel, then pixel."""
    return weight.view(-1, factor**2, *weight.shape[1:]).transpose(0, 1).flatten(0, 1)


def _last(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last)
