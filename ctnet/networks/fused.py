"""Networks compiled for inference: no norm is left but one look-up per pixel, or none at all.

In eval mode a conditioned block is h' = leaky(gamma (W x + b - mean) / std + beta). The statistics
fold into W and beta, which leaves a convolution, a table of scales and shifts, and one look-up per
pixel. Where a level holds one mixture only, gamma folds into W as well: a plain convolution.
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
from ctnet.networks.folding import affine_of
from ctnet.networks.fused_step import Step, step_by_blocks
from ctnet.networks.windows import Box, Plan, convolve, plan, upsample, whole

Levels = dict[int, MixtureMap]


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


def _affine(norm: ConditionedNorm, embeddings: Tensor, bias: Tensor) -> Affine:
    """Builds the tables for h' = scale (W x) + shift, where ``bias`` (C,) is added to W x."""
    gamma, beta = norm.gamma, norm.beta
    return Affine(
        embeddings @ norm.shared.weight.T,
        norm.shared.bias,
        torch.cat([gamma.weight, bias[:, None] * gamma.weight + beta.weight]).T.contiguous(),
        torch.cat([gamma.bias, bias * gamma.bias + beta.bias]),
    )


@dataclass(frozen=True)
class FusedBlock:
    """A convolution, what is left of its norm, and a leaky ReLU.

    Attributes:
        stride: Stride of the level at which it works.
        weight: Kernel (O,I,k,k), the norm's statistics folded in.
        bias: Bias (O,) of a plain block, None of a conditioned one.
        affine: Scales and shifts of a conditioned block, None of a plain one.
        step: How scales and shifts are applied.
        folded: Kernel and bias by task, of those that were asked for everywhere.
    """

    stride: int
    weight: Tensor
    bias: Tensor | None
    affine: Affine | None
    step: Step
    folded: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def __call__(self, x: Tensor, has: Box, wanted: Box, level: MixtureMap | None) -> Tensor:
        """Maps a part of a level (N,I,*has.size) to (N,O,*wanted.size)."""
        if level is None or level.index is None:
            weight, bias = self._kernel(level)
            return F.leaky_relu_(convolve(x, weight, bias, has, wanted))
        y = convolve(x, self.weight, None, has, wanted)
        y = y.contiguous(memory_format=torch.channels_last)
        scale, shift = self._table(level)
        self.step(y.permute(0, 2, 3, 1).view(-1, y.shape[1]), scale, shift, level.index.flatten())
        return y

    def raw(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Convolves a whole level: what does not depend on the request."""
        return convolve(x, self.weight, None, whole(size), whole(size))

    def finish(self, y: Tensor, level: MixtureMap) -> Tensor:
        """Turns what :meth:`raw` gave into the block's answer where one mixture is everywhere."""
        scale, shift = (row.view(1, -1, 1, 1) for row in self._table(level))
        return F.leaky_relu_(torch.addcmul(shift, y, scale))

    def _table(self, level: MixtureMap) -> tuple[Tensor, Tensor]:
        scale, shift = cast(Affine, self.affine).table(level.weights)
        return scale.to(self.weight.dtype), shift.to(self.weight.dtype)

    def _kernel(self, level: MixtureMap | None) -> tuple[Tensor, Tensor]:
        """Returns kernel and bias for one mixture everywhere; those of tasks are kept."""
        if level is None:
            return self.weight, cast(Tensor, self.bias)
        shares: list[float] = level.weights[0].tolist()
        key = shares.index(1) if 1 in shares else None
        if key in self.folded:
            return self.folded[key]
        scale, shift = self._table(level)
        kernel = self.weight * scale[0, :, None, None, None], shift[0]
        if key is not None:
            self.folded[key] = kernel
        return kernel


def _fuse_block(
    block: Block, embeddings: Tensor | None, dtype: torch.dtype, step: Step
) -> FusedBlock:
    conv, norm = block.conv, block.norm
    scale, shift = affine_of(norm.norm if isinstance(norm, ConditionedNorm) else norm)
    bias = shift if conv.bias is None else shift + conv.bias * scale
    weight = (conv.weight * scale[:, None, None, None]).to(dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    if isinstance(norm, ConditionedNorm):
        affine = _affine(norm, cast(Tensor, embeddings), bias)
        return FusedBlock(block.stride, weight, None, affine, step)
    return FusedBlock(block.stride, weight, bias.to(dtype), None, step)


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
        def fuse(blocks: nn.ModuleList) -> list[FusedBlock]:
            return [_fuse_block(cast(Block, b), embeddings, dtype, step) for b in blocks]

        self.align_corners = decoder.config.align_corners
        self.dtype = dtype
        self.image, self.skips = fuse(decoder.image), fuse(decoder.skips)
        self.stages = fuse(decoder.stages)
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
    ) -> Tensor:
        """Decodes.

        Args:
            image: Normalised image (N,3,H,W), H and W multiples of 32.
            features: The encoder's features at strides 2 to 32.
            levels: The request by stride; with ``part``, that of its grid alone. None for a plain
                decoder.
            part: What to compute; None for everything.
            shared: What :meth:`prepare` gave, for a request of one mixture everywhere.

        Returns:
            The raw outputs (N,outputs,h,w) of the part, in the type of the image.
        """
        size = image.shape[2], image.shape[3]
        part = part or self.plan(whole(size), size)
        asked = _Asked(levels, part)

        def run(block: FusedBlock, x: Tensor, has: Box, wanted: Box) -> Tensor:
            return block(x, has, wanted, asked.level(block.stride, wanted))

        def skip(number: int, wanted: Box) -> Tensor:
            block = self.skips[number]
            if shared is not None:
                return block.finish(shared.skips[number], asked.everywhere(block.stride))
            return run(block, self._crop(features[number], wanted), wanted, wanted)

        x = skip(4, part.outputs[32])
        for number, stage in enumerate(self.stages):
            stride = stage.stride
            has, reads = part.outputs[2 * stride], part.inputs[stride]
            coarse = size[0] // (2 * stride), size[1] // (2 * stride)
            x = upsample(x, has, reads, coarse, self.align_corners)
            if stride > 1:
                side = skip(3 - number, reads)
            elif shared is not None:
                side = self.image[0].finish(shared.image, asked.everywhere(1))
                side = run(self.image[1], side, part.image, reads)
            else:
                side = self._crop(image, part.pixels)
                side = run(self.image[0], side, part.pixels, part.image)
                side = run(self.image[1], side, part.image, reads)
            x = torch.cat([x, side], 1)
            del side  # The convolution needs the room.
            x = run(stage, x, reads, part.outputs[stride])
        return F.conv2d(x, *self.head).to(image.dtype)

    def prepare(self, image: Tensor, features: Sequence[Tensor]) -> Shared:
        """Computes the convolutions that no request changes, for any number of single tasks."""
        skips = [
            block.raw(self._crop(x, whole((x.shape[2], x.shape[3]))), (x.shape[2], x.shape[3]))
            for block, x in zip(self.skips, features, strict=True)
        ]
        size = image.shape[2], image.shape[3]
        return Shared(tuple(skips), self.image[0].raw(self._crop(image, whole(size)), size))

    def _crop(self, x: Tensor, box: Box) -> Tensor:
        part = x[(..., *box.slices)].to(self.dtype)
        return part.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Shared:
    """Convolutions of an image that are the same for every task.

    Attributes:
        skips: Those of the skips at strides 2 to 32, before scale, shift and activation.
        image: That of the first block on the image.
    """

    skips: tuple[Tensor, ...]
    image: Tensor


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
