"""The decoder: a U-Net of task composition blocks, or of plain ones, whose widths are data."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctnet.blocks.conditioned_batch_norm import ConditionedBatchNorm
from ctnet.blocks.decoder_config import LEVELS, DecoderConfig
from ctnet.blocks.task_composition import Condition, SeparableConv, TaskCompositionBlock

STAGE_STRIDES = (16, 8, 4, 2, 1)
"""Strides of the decoder's stages, in the order in which they run."""

X = TypeVar("X")


def u_net(side: Callable[[int], X], stage: Callable[[int, X, X], X]) -> Iterator[X]:
    """Runs the stages of a U-Net from the coarsest to the finest, and yields what each gives.

    Args:
        side: Function (stride) that gives the features beside a stage: a skip at strides 2 to 32,
            the blocks on the image at stride 1. Those at stride 32 are where the U-Net begins.
        stage: Function (stride, coarser features, side features) that runs the stage of a stride.
    """
    x = side(LEVELS[-1])
    for stride in STAGE_STRIDES:
        x = stage(stride, x, side(stride))
        yield x


def last(steps: Iterator[X]) -> X:
    """Runs all steps and returns what the last one gave; no other is kept."""
    return deque(steps, maxlen=1).pop()


class Decoder(nn.Module):
    """Turns encoder features into a composite.

    Args:
        config: Widths and details.
        channels: Widths of the encoder's features at strides 2 to 32.
        conditioned: Whether norms depend on the palette.
    """

    def __init__(self, config: DecoderConfig, channels: tuple[int, ...], conditioned: bool) -> None:
        super().__init__()
        self.config = config
        self.channels = channels
        skips = config.skips or channels
        image = config.image or (channels[0],) * (1 if config.subpixel else 2)

        def block(
            conv: nn.Module, outputs: int, stride: int, factor: int = 1
        ) -> TaskCompositionBlock:
            return TaskCompositionBlock(conv, outputs, stride, config, conditioned, factor)

        def full(inputs: int, outputs: int, kernel: int) -> nn.Module:
            return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=config.bias)

        if config.subpixel:
            # A cell sees its four pixels and those around.
            halving = nn.Conv2d(3, image[0], 4, stride=2, padding=1, bias=config.bias)
            blocks = [block(halving, image[0], 2)]
        else:
            pairs = zip((3, image[0]), image, strict=True)
            blocks = [block(full(a, b, 3), b, 1) for a, b in pairs]
        self.image = nn.ModuleList(blocks)
        self.skips = nn.ModuleList(
            block(full(a, b, 1), b, stride)
            for a, b, stride in zip(channels, skips, LEVELS[1:], strict=True)
        )
        stages = []
        inputs = skips[4]
        for number, (outputs, kernel) in enumerate(
            zip(config.stages, config.depthwise, strict=True)
        ):
            inputs += skips[3 - number] if number < 4 else image[-1]
            factor = 2 if number == 4 and config.subpixel else 1
            wide, bias = outputs * factor**2, config.bias and factor == 1
            conv: nn.Module = (
                SeparableConv(inputs, wide, kernel, bias)
                if kernel
                else nn.Conv2d(inputs, wide, 3, padding=1, bias=bias)
            )
            stages.append(block(conv, outputs, LEVELS[4 - number], factor))
            inputs = outputs
        self.stages = nn.ModuleList(stages)
        self.head = nn.Conv2d(inputs, config.outputs, 1)

    def stage_features(
        self, image: Tensor, features: Sequence[Tensor], condition: Condition | None
    ) -> Iterator[Tensor]:
        """Yields what each stage gives, at strides 16, 8, 4, 2 and 1, as it is computed.

        Who needs the coarse features alone stops there, and the fine ones are never computed.

        Args:
            image: Normalized image (N,3,H,W), H and W multiples of 32.
            features: The encoder's features at strides 2 to 32.
            condition: The request, None for a plain decoder.
        """

        def side(stride: int) -> Tensor:
            if stride > 1:
                level = LEVELS.index(stride) - 1
                skip: Tensor = self.skips[level](features[level], condition)
                return skip
            x = image
            for block in self.image:
                x = block(x, condition)
            return x

        def stage(stride: int, x: Tensor, side: Tensor) -> Tensor:
            block = cast(TaskCompositionBlock, self.stages[STAGE_STRIDES.index(stride)])
            if block.factor == 1:
                x = F.interpolate(
                    x, scale_factor=2, mode="bilinear", align_corners=self.config.align_corners
                )
            y: Tensor = block(torch.cat([x, side], dim=1), condition)
            return y

        return u_net(side, stage)

    def forward(
        self, image: Tensor, features: Sequence[Tensor], condition: Condition | None
    ) -> Tensor:
        """Decodes.

        Args:
            image: Normalized image (N,3,H,W), H and W multiples of 32.
            features: The encoder's features at strides 2 to 32.
            condition: The request, None for a plain decoder.

        Returns:
            The composite's raw outputs (N,outputs,H,W).
        """
        return cast(Tensor, self.head(last(self.stage_features(image, features, condition))))

    @torch.no_grad()
    def specialize(self, embedding: Tensor) -> Decoder:
        """Returns the plain decoder that does what this conditioned one does for one task.

        Args:
            embedding: The task's embedding (E,).
        """
        plain = Decoder(self.config, self.channels, conditioned=False).to(embedding)
        state = {k: v for k, v in self.state_dict().items() if ".norm." not in k}
        for name, module in self.named_modules():
            if isinstance(module, ConditionedBatchNorm):
                gamma, beta = module.table(embedding[None])
                state |= {f"{name}.{k}": v for k, v in module.norm.state_dict().items()}
                state |= {f"{name}.weight": gamma[0], f"{name}.bias": beta[0]}
        plain.load_state_dict(state, strict=True)
        return plain.train(self.training)
