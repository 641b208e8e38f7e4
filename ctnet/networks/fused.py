"""Networks compiled for inference: no norm is left but one look-up per pixel, or none at all.

In eval mode a conditioned block is h' = leaky(gamma (W x + b - mean) / std + beta). The statistics
fold into W and beta, which leaves a convolution, a table of scales and shifts, and one look-up per
pixel. Where a level holds one mixture only, gamma folds into W as well: a plain convolution. On a
CPU, wide features that a stage would upsample are convolved before that; see
:mod:`ctnet.networks.upconv`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctnet.networks.conditioning import ConditionedNorm, MixtureMap
from ctnet.networks.decoder import Block, Decoder
from ctnet.networks.folding import fold_block
from ctnet.networks.fused_step import Step, step_by_blocks
from ctnet.networks.upconv import add_convolved, split_taps
from ctnet.networks.windows import (
    Box,
    Plan,
    convolve,
    plan,
    upsample,
    upsampling_reads,
    whole,
)

Levels = dict[int, MixtureMap]

Memory = dict[int, Tensor]
"""Of a decoder's last pass over a whole image, by stride: the coarsest skip (32), what the stages
before the last one gave (16 to 2), and the blocks on the image (1)."""

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


@dataclass(frozen=True)
class Kernel:
    """A convolution.

    Attributes:
        weight: Kernel (O,I,k,k).
        bias: Bias (O,), or None.
        taps: Kernel for features of the coarser level; None where they are upsampled first and
            are among the I.
    """

    weight: Tensor
    bias: Tensor | None = None
    taps: Tensor | None = None

    def __call__(self, x: Tensor, has: Box, wanted: Box, coarse: Coarse | None) -> Tensor:
        """Maps a part of a level (N,I,*has.size) to (N,O,*wanted.size)."""
        y = convolve(x, self.weight, self.bias, has, wanted)
        y = y.contiguous(memory_format=torch.channels_last)
        if coarse is not None and self.taps is not None:
            coarse.convolve(y, self.taps, wanted)
        return y

    def scaled(self, scale: Tensor, shift: Tensor) -> Kernel:
        """Returns the convolution whose answer is scaled and shifted, by (O,) each."""
        taps = None if self.taps is None else self.taps * scale.repeat(3)
        return Kernel(self.weight * scale[:, None, None, None], shift, taps)


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
        folded: Kernels by task, of those that were asked for everywhere.
    """

    stride: int
    kernel: Kernel
    affine: Affine | None
    step: Step
    folded: dict[int, Kernel] = field(default_factory=dict, repr=False)

    def __call__(
        self,
        x: Tensor,
        has: Box,
        wanted: Box,
        level: MixtureMap | None,
        coarse: Coarse | None = None,
    ) -> Tensor:
        """Maps a part of a level (N,I,*has.size), and of the coarser one, to (N,O,*wanted.size)."""
        if level is None or level.index is None:
            return F.leaky_relu_(self._kernel(level)(x, has, wanted, coarse))
        y = self.kernel(x, has, wanted, coarse)
        scale, shift = self._table(level)
        self.step(y.permute(0, 2, 3, 1).view(-1, y.shape[1]), scale, shift, level.index.flatten())
        return y

    def prepare(self, x: Tensor, size: tuple[int, int]) -> Prepared:
        """Convolves a whole level: what does not depend on the request."""
        y = self.kernel(x, whole(size), whole(size), None)
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
        scale, shift = self._table(level)
        kernel = self.kernel.scaled(scale[0], shift[0])
        if key is not None:
            self.folded[key] = kernel
        return kernel


def _fuse_block(
    block: Block, embeddings: Tensor | None, dtype: torch.dtype, step: Step, upsampled: int = 0
) -> FusedBlock:
    """Compiles a block, the first ``upsampled`` of whose channels come from the coarser level."""
    norm = block.norm
    weight, bias = fold_block(block)
    weight, taps = weight.to(dtype), None
    if upsampled >= WIDE and weight.device.type == "cpu":
        weight, taps = weight[:, upsampled:], split_taps(weight[:, :upsampled])
    weight = weight.contiguous(memory_format=torch.channels_last)
    if isinstance(norm, ConditionedNorm):
        affine = Affine.of(norm, cast(Tensor, embeddings), bias)
        return FusedBlock(block.stride, Kernel(weight, None, taps), affine, step)
    return FusedBlock(block.stride, Kernel(weight, bias.to(dtype), taps), None, step)


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

        self.align_corners = decoder.config.align_corners
        self.dtype = dtype
        self.image, self.skips = ([*map(fuse, part)] for part in (decoder.image, decoder.skips))
        before = cast(Block, decoder.skips[-1]).conv.out_channels, *decoder.config.stages[:-1]
        self.stages = [*map(fuse, decoder.stages, before)]
        head = decoder.head
        self.head = head.weight.to(dtype), cast(Tensor, head.bias).to(dtype)

    def plan(self, wanted: Box, size: tuple[int, int]) -> Plan:
        """Works back from a part of the answer, in pixels, to what it needs."""
        return plan(wanted, size, self.align_corners)

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
            return block(x, has, wanted, asked.level(block.stride, wanted), coarse)

        def skip(number: int, wanted: Box) -> Tensor:
            block = self.skips[number]
            if shared is not None:
                return block.finish(shared.skips[number], asked.everywhere(block.stride))
            return run(block, self._crop(features[number], wanted), wanted, wanted)

        def kept(stride: int, x: Tensor, box: Box) -> tuple[Tensor, Box]:
            """Remembers a part, and returns what there is then."""
            if memory is None:
                return x, box
            if stride in memory:
                memory[stride][(..., *box.slices)] = x
            else:
                memory[stride] = x
            return memory[stride], whole((size[0] // stride, size[1] // stride))

        x, has = kept(32, skip(4, part.outputs[32]), part.outputs[32])
        for number, stage in enumerate(self.stages):
            stride = stage.stride
            reads = part.inputs[stride]
            level = size[0] // (2 * stride), size[1] // (2 * stride)
            source = upsampling_reads(reads, level, self.align_corners)
            coarse = Coarse(_cut(x, has, source), source, level, self.align_corners)
            if stride > 1:
                side = skip(3 - number, reads)
            else:
                if shared is not None:
                    side = self.image[0].finish(shared.image, asked.everywhere(1))
                else:
                    side = self._crop(image, part.pixels)
                    side = run(self.image[0], side, part.pixels, part.image)
                side, has = kept(1, run(self.image[1], side, part.image, part.side), part.side)
                side = _cut(side, has, reads)
            if stage.kernel.taps is None:
                side = torch.cat([coarse.upsample(reads), side], 1)
            x, has = run(stage, side, reads, part.outputs[stride], coarse), part.outputs[stride]
            if stride > 1:
                x, has = kept(stride, x, has)
        return F.conv2d(x, *self.head).to(image.dtype)

    def prepare(self, image: Tensor, features: Sequence[Tensor]) -> Shared:
        """Computes the convolutions that no request changes, for any number of single tasks."""
        skips = [
            block.prepare(self._crop(x, whole((x.shape[2], x.shape[3]))), (x.shape[2], x.shape[3]))
            for block, x in zip(self.skips, features, strict=True)
        ]
        size = image.shape[2], image.shape[3]
        return Shared(tuple(skips), self.image[0].prepare(self._crop(image, whole(size)), size))

    def _crop(self, x: Tensor, box: Box) -> Tensor:
        part = x[(..., *box.slices)].to(self.dtype)
        return part.contiguous(memory_format=torch.channels_last)


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
