"""The fused decoder: computes only the part of the output that is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctnet.blocks.decoder import STAGE_STRIDES, Decoder, last, u_net
from ctnet.blocks.decoder_config import LEVELS, DecoderConfig
from ctnet.blocks.palette_pyramid import MixtureMap
from ctnet.blocks.task_composition import TaskCompositionBlock
from ctnet.fused.block import FusedBlock, Prepared, fuse_block
from ctnet.fused.convolutions import Coarse
from ctnet.fused.regions import Box, Plan, Reach, plan, upsampling_reads, whole
from ctnet.fused.scale_shift import Step, step_by_blocks

Levels = dict[int, MixtureMap]

Memory = dict[int, Tensor]
"""The tensors of a decoder's last pass over a whole image, by stride: the coarsest skip (32), the
outputs of all stages but the last one (16 to 2), and those of the blocks on the image (1, also if
they work at 2)."""


@dataclass(frozen=True)
class PreparedDecoder:
    """Convolutions of an image that are the same for every task.

    Attributes:
        skips: Those of the skips at strides 2 to 32.
        image: That of the first block on the image.
    """

    skips: tuple[Prepared, ...]
    image: Prepared


@dataclass(frozen=True)
class _Patch:
    """A part of a level: features (N,C,*box.size), and where they are in their level."""

    x: Tensor
    box: Box

    def cut(self, wanted: Box) -> Tensor:
        return self.x[(..., *wanted.within(self.box).slices)]


class FusedDecoder:
    """A decoder in eval mode, fused; it can compute any part of its answer.

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
            return fuse_block(cast(TaskCompositionBlock, block), embeddings, dtype, step, upsampled)

        self.reach = reach_of(decoder.config)
        self.dtype = dtype
        self.image, self.skips = ([*map(fuse, part)] for part in (decoder.image, decoder.skips))
        coarsest = cast(nn.Conv2d, cast(TaskCompositionBlock, decoder.skips[-1]).conv)
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
        prepared: PreparedDecoder | None = None,
        memory: Memory | None = None,
    ) -> Tensor:
        """Decodes.

        Args:
            image: Normalized image (N,3,H,W), H and W multiples of 32.
            features: The encoder's features at strides 2 to 32.
            levels: The request by stride; with ``part``, that of its grid alone. None for a plain
                decoder.
            part: What to compute; None for everything.
            prepared: What :meth:`prepare` gave, for a request of one mixture everywhere.
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

        def kept(key: int, x: Tensor, box: Box, stride: int) -> _Patch:
            """Remembers a part, and returns what there is then."""
            if memory is None:
                return _Patch(x, box)
            if key in memory:
                memory[key][(..., *box.slices)] = x
            else:
                memory[key] = x
            return _Patch(memory[key], whole((size[0] // stride, size[1] // stride)))

        def skip(stride: int, wanted: Box) -> Tensor:
            number = LEVELS.index(stride) - 1
            block = self.skips[number]
            if prepared is not None:
                return block.finish(prepared.skips[number], asked.everywhere(block.stride))
            return run(block, self._crop(features[number], wanted), wanted, wanted)

        def on_image(reads: Box) -> Tensor:
            first, *others = self.image
            if prepared is not None:
                x = first.finish(prepared.image, asked.everywhere(first.stride))
            else:
                x = run(first, self._crop(image, part.pixels), part.pixels, part.image)
            for block in others:
                x = run(block, x, part.image, part.side)
            return kept(1, x, part.side, first.stride).cut(reads)

        def side(stride: int) -> _Patch:
            if stride == LEVELS[-1]:
                wanted = part.outputs[stride]
                return kept(stride, skip(stride, wanted), wanted, stride)
            reads = part.inputs[stride]
            return _Patch(skip(stride, reads) if stride > 1 else on_image(reads), reads)

        def stage(stride: int, coarser: _Patch, beside: _Patch) -> _Patch:
            block, wanted = self.stages[STAGE_STRIDES.index(stride)], part.outputs[stride]
            reads = beside.box
            if block.factor == 1:
                level = size[0] // (2 * stride), size[1] // (2 * stride)
                source = upsampling_reads(reads, level, self.reach.align_corners)
                coarse = Coarse(coarser.cut(source), source, level, self.reach.align_corners)
                x = run(block, beside.x, reads, wanted, coarse)
            else:
                joined = torch.cat([coarser.cut(reads), beside.x], 1)
                x = run(block, joined, reads, wanted.coarser(block.factor))
            return kept(stride, x, wanted, stride) if stride > 1 else _Patch(x, wanted)

        return self._answer(last(u_net(side, stage)).x).to(image.dtype)

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

    def prepare(self, image: Tensor, features: Sequence[Tensor]) -> PreparedDecoder:
        """Computes the convolutions that no request changes, for any number of single tasks."""
        skips = []
        for block, x in zip(self.skips, features, strict=True):
            level = x.shape[2], x.shape[3]
            skips.append(block.prepare(self._crop(x, whole(level)), level, level))
        size, first = (image.shape[2], image.shape[3]), self.image[0]
        level = size[0] // first.stride, size[1] // first.stride
        return PreparedDecoder(
            tuple(skips), first.prepare(self._crop(image, whole(size)), size, level)
        )

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
