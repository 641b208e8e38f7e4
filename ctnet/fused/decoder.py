"""Networks compiled for inference: no norm is left but one look-up per pixel, or none at all.

In eval mode a conditioned block is h' = leaky(gamma (W x + b - mean) / std + beta). The statistics
fold into W and beta, which leaves a convolution, a table of scales and shifts, and one look-up per
pixel. Where a level holds one mixture only, gamma folds into W as well: a plain convolution. On a
CPU, wide features that a stage would upsample are convolved before that; see
:mod:`ctnet.fused.upsampled_conv`. The pixels that a subpixel stage gives stay channels of their
cells up to the answer: their requests are rearranged, not they.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctnet.blocks.conditioned_batch_norm import ConditionedNorm, MixtureMap
from ctnet.blocks.decoder import Block, Decoder, DecoderConfig, SeparableConv
from ctnet.fused.convolutions import Coarse, FullKernel, Kernel, SeparableKernel
from ctnet.fused.folding import fold_block
from ctnet.fused.regions import (
    Box,
    Plan,
    Reach,
    plan,
    upsampling_reads,
    whole,
)
from ctnet.fused.scale_shift import Step, step_by_blocks
from ctnet.fused.upsampled_conv import split_taps

Levels = dict[int, MixtureMap]

Memory = dict[int, Tensor]
"""Of a decoder's last pass over a whole image, by stride: the coarsest skip (32), what the stages
before the last one gave (16 to 2), and the blocks on the image (1, also where they work at 2)."""

WIDE = 100
"""Features of at least so many channels are convolved before they are upsampled."""


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
    def of(cls, norm: ConditionedNorm, embeddings: Tensor, bias: Tensor) -> Affine:
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


def _fuse_block(
    block: Block, embeddings: Tensor | None, dtype: torch.dtype, step: Step, upsampled: int = 0
) -> FusedBlock:
    """Compiles a block, the first ``upsampled`` of whose channels come from the coarser level."""
    norm, factor = block.norm, block.factor
    weight, bias = fold_block(block)
    kernel = _kernel(block.conv, _by_pixel(weight.to(dtype), factor), factor, upsampled)
    if isinstance(norm, ConditionedNorm):
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
    """Orders outputs by pixel of the cell, then channel, in place of channel, then pixel."""
    return weight.view(-1, factor**2, *weight.shape[1:]).transpose(0, 1).flatten(0, 1)


def _last(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last)


class FusedDecoder:
    """A decoder in eval mode, compiled; it can compute any part of its answer.

    Args:
        decoder: The decoder, all of whose stages run.
        embeddings: Task embeddings (K,E) of a conditioned decoder, None of a plain one.
        dtype: Type in which it computes.
        step: How scales and shifts are applied.
    """

    def __init__(
        self,
        decoder: Decoder,
        embeddings: Tensor | None,
        dtype: torch.dtype,
        step: Step = step_by_blocks,
    ) -> None:
        def fuse(block: nn.Module, upsampled: int = 0) -> FusedBlock:
            return _fuse_block(cast(Block, block), embeddings, dtype, step, upsampled)

        self.reach = reach_of(decoder.config)
        self.dtype = dtype
        self.image, self.skips = ([*map(fuse, part)] for part in (decoder.image, decoder.skips))
        coarsest = cast(nn.Conv2d, cast(Block, decoder.skips[-1]).conv)
        before = [coarsest.out_channels, *decoder.config.stages[:-1]]
        if self.reach.subpixel:
            before[-1] = 0
        self.stages = [*map(fuse, decoder.stages, before)]
        self.head = _head(decoder.head, self.stages[-1].factor, dtype)

    def plan(self, wanted: Box, size: tuple[int, int]) -> Plan:
        """Works back from a part of the answer, in pixels, to what it needs."""
        return plan(wanted, size, self.reach)

    def __call__(
        self,
        image: Tensor,
        features: Sequence[Tensor],
        levels: Levels | None,
        part: Plan | None = None,
        shared: Shared | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """Decodes.

        Args:
            image: Normalised image (N,3,H,W), H and W multiples of 32.
            features: The encoder's features at strides 2 to 32.
            levels: The request by stride; with ``part``, that of its grid alone. None for a plain
                decoder.
            part: What to compute; None for everything.
            shared: What :meth:`prepare` gave, for a request of one mixture everywhere.
            memory: An empty one is filled; from then on ``part`` needs to hold only what changed.

        Returns:
            The raw outputs (N,outputs,h,w) of the part, in the type of the image.
        """
        size = image.shape[2], image.shape[3]
        part = part or self.plan(whole(size), size)
        asked = _Asked(levels, part)

        def run(
            block: FusedBlock, x: Tensor, has: Box, wanted: Box, coarse: Coarse | None = None
        ) -> Tensor:
            level = asked.level(block.stride, wanted.finer(block.factor))
            return block(x, has, wanted, level, coarse)

        def skip(number: int, wanted: Box) -> Tensor:
            block = self.skips[number]
            if shared is not None:
                return block.finish(shared.skips[number], asked.everywhere(block.stride))
            return run(block, self._crop(features[number], wanted), wanted, wanted)

        def kept(key: int, x: Tensor, box: Box, stride: int) -> tuple[Tensor, Box]:
            """Remembers a part, and returns what there is then."""
            if memory is None:
                return x, box
            if key in memory:
                memory[key][(..., *box.slices)] = x
            else:
                memory[key] = x
            return memory[key], whole((size[0] // stride, size[1] // stride))

        def on_image(reads: Box) -> Tensor:
            first, *others = self.image
            if shared is not None:
                side = first.finish(shared.image, asked.everywhere(first.stride))
            else:
                side = run(first, self._crop(image, part.pixels), part.pixels, part.image)
            for block in others:
                side = run(block, side, part.image, part.side)
            side, has = kept(1, side, part.side, first.stride)
            return _cut(side, has, reads)

        x, has = kept(32, skip(4, part.outputs[32]), part.outputs[32], 32)
        for number, stage in enumerate(self.stages):
            stride, wanted = stage.stride, part.outputs[stage.stride]
            reads = part.inputs[stride]
            side = skip(3 - number, reads) if stride > 1 else on_image(reads)
            if stage.factor == 1:
                level = size[0] // (2 * stride), size[1] // (2 * stride)
                source = upsampling_reads(reads, level, self.reach.align_corners)
                coarse = Coarse(_cut(x, has, source), source, level, self.reach.align_corners)
                x = run(stage, side, reads, wanted, coarse)
            else:
                side = torch.cat([_cut(x, has, reads), side], 1)
                x = run(stage, side, reads, wanted.coarser(stage.factor))
            has = wanted
            if stride > 1:
                x, has = kept(stride, x, has, stride)
        return self._answer(x).to(image.dtype)

    def _answer(self, x: Tensor) -> Tensor:
        """Applies the head, and puts the pixels of each cell to their places."""
        factor = self.stages[-1].factor
        weight, bias = self.head
        if factor == 1:
            return F.conv2d(x, weight, bias)
        # A matrix product gives planes, of which pixels are placed faster than channels last.
        cells = x.flatten(2)
        planes = torch.baddbmm(bias[:, None], weight.expand(len(x), -1, -1), cells)
        return F.pixel_shuffle(planes.view(len(x), -1, *x.shape[2:]), factor)

    def prepare(self, image: Tensor, features: Sequence[Tensor]) -> Shared:
        """Computes the convolutions that no request changes, for any number of single tasks."""
        skips = []
        for block, x in zip(self.skips, features, strict=True):
            level = x.shape[2], x.shape[3]
            skips.append(block.prepare(self._crop(x, whole(level)), level, level))
        size, first = (image.shape[2], image.shape[3]), self.image[0]
        level = size[0] // first.stride, size[1] // first.stride
        return Shared(tuple(skips), first.prepare(self._crop(image, whole(size)), size, level))

    def _crop(self, x: Tensor, box: Box) -> Tensor:
        part = x[(..., *box.slices)].to(self.dtype)
        return part.contiguous(memory_format=torch.channels_last)


def reach_of(config: DecoderConfig) -> Reach:
    """Returns how far a decoder's stages see."""
    stages = tuple((side or 3) // 2 for side in config.depthwise)
    return Reach(stages, config.align_corners, config.subpixel)


def _head(head: nn.Conv2d, factor: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns weight and bias of the head: with a factor, a matrix for all pixels of a cell."""
    weight, bias = head.weight.to(dtype), cast(Tensor, head.bias).to(dtype)
    if factor == 1:
        return weight, bias
    each = torch.eye(factor**2, dtype=dtype, device=weight.device)
    matrix = torch.einsum("oc,pq->opqc", weight[..., 0, 0], each).flatten(2).flatten(0, 1)
    return matrix, bias.repeat_interleave(factor**2)


def _cut(x: Tensor, has: Box, wanted: Box) -> Tensor:
    return x[(..., *wanted.within(has).slices)]


@dataclass(frozen=True)
class Shared:
    """Convolutions of an image that are the same for every task.

    Attributes:
        skips: Those of the skips at strides 2 to 32.
        image: That of the first block on the image.
    """

    skips: tuple[Prepared, ...]
    image: Prepared


@dataclass(frozen=True)
class _Asked:
    """Mixtures on a part's grid, for boxes of whole levels."""

    levels: Levels | None
    part: Plan

    def level(self, stride: int, box: Box) -> MixtureMap | None:
        if self.levels is None:
            return None
        level = self.levels[stride]
        if level.index is None:
            return level
        inner = box.within(self.part.grid.coarser(stride))
        return replace(level, index=level.index[(..., *inner.slices)])

    def everywhere(self, stride: int) -> MixtureMap:
        return cast(Levels, self.levels)[stride]
