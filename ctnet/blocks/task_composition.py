"""The task composition block: convolution, conditioned batch norm, leaky ReLU (section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctnet.blocks.conditioned_batch_norm import ConditionedBatchNorm
from ctnet.blocks.decoder_config import LEVELS, DecoderConfig
from ctnet.blocks.palette_pyramid import MixtureMap


@dataclass(frozen=True)
class Condition:
    """What conditioned blocks need of the request.

    Attributes:
        embeddings: Task embeddings (K,E).
        levels: Mixture map of each stride.
    """

    embeddings: Tensor
    levels: dict[int, MixtureMap]


class SeparableConv(nn.Module):
    """A 1 x 1 convolution and a depthwise one, without anything between them: one linear map.

    The 1 x 1 comes first (Haase & Amthor 2020): in a stage it then acts at the coarser level on
    what is upsampled, and few channels are left for the finer one.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        kernel: Side of the depthwise kernel, odd.
        bias: Whether the depthwise convolution has a bias.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool) -> None:
        super().__init__()
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.depthwise = nn.Conv2d(
            outputs, outputs, kernel, padding=kernel // 2, groups=outputs, bias=bias
        )
        # Random kernels of one channel alone blur or erase it: begin close to a 1 x 1 convolution.
        with torch.no_grad():
            self.depthwise.weight[..., kernel // 2, kernel // 2] += 1

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N,inputs,h,w) to (N,outputs,h,w)."""
        return cast(Tensor, self.depthwise(self.pointwise(x)))


class TaskCompositionBlock(nn.Module):
    """Convolution, conditioned batch norm and leaky ReLU.

    With a plain batch norm instead, it is the block of the baselines' decoders.

    Args:
        conv: The convolution.
        outputs: Output channels.
        stride: Stride of the level of its output.
        config: The decoder's configuration.
        conditioned: Whether the norm depends on the palette.
        factor: 2 if the convolution works at twice the stride and gives each channel of the 2 x 2
            pixels of a cell (Shi et al. 2016), which are put to their places before the norm.
    """

    def __init__(
        self,
        conv: nn.Module,
        outputs: int,
        stride: int,
        config: DecoderConfig,
        conditioned: bool,
        factor: int = 1,
    ) -> None:
        super().__init__()
        self.stride, self.factor = stride, factor
        self.conv = conv
        if conditioned:
            hidden = config.hidden[LEVELS.index(stride)]
            self.norm: nn.Module = ConditionedBatchNorm(outputs, config.embedding, hidden)
        else:
            self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, condition: Condition | None) -> Tensor:
        """Maps (N,inputs,h,w) to the output; ``condition`` is None in a plain decoder."""
        x = self.conv(x)
        if self.factor > 1:
            x = F.pixel_shuffle(x, self.factor)
        if condition is None:
            x = self.norm(x)
        else:
            x = self.norm(x, condition.levels[self.stride], condition.embeddings)
        return F.leaky_relu(x, inplace=True)
