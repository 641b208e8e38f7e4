"""The network in two other forms, written from the paper's equations: the dearest, the cheapest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctnet.blocks.conditioned_batch_norm import ConditionedBatchNorm
from ctnet.blocks.decoder import Decoder
from ctnet.blocks.decoder_config import LEVELS
from ctnet.blocks.encoders import normalize
from ctnet.blocks.task_composition import TaskCompositionBlock
from ctnet.fused.folding import fold_block, fold_encoder
from ctnet.models.ctn import CTN

Answer = Callable[[nn.Module, Tensor, int], Tensor]


def literal(model: CTN, image: Tensor, palette: Tensor) -> Tensor:
    """Eq. 1 pixel by pixel: a map of embeddings, and 1 x 1 convolutions to gamma and beta.

    Args:
        model: Network in eval mode.
        image: RGB (N,3,H,W), H and W multiples of 32.
        palette: Task ids (N,H,W), each one asked for.
    """
    x = normalize(image, model.encoder.mean, model.encoder.std)
    maps = {1: model.representation()[palette].permute(0, 3, 1, 2)}
    for stride in LEVELS[1:]:
        maps[stride] = F.avg_pool2d(maps[stride // 2], 2)

    def block(module: nn.Module, x: Tensor, stride: int) -> Tensor:
        norm = cast(ConditionedBatchNorm, module.norm)
        hidden = F.leaky_relu(_by_pixel(maps[stride], norm.shared))
        gamma, beta = _by_pixel(hidden, norm.gamma), _by_pixel(hidden, norm.beta)
        return F.leaky_relu(gamma * norm.norm(_convolve(module, x)) + beta)

    return _decode(model.decoder, x, model.encoder(x), block)


def _by_pixel(x: Tensor, linear: nn.Linear) -> Tensor:
    return F.conv2d(x, linear.weight[:, :, None, None], linear.bias)


def _convolve(module: nn.Module, x: Tensor) -> Tensor:
    """Convolves; of a subpixel block each pixel is put to its place."""
    block = cast(TaskCompositionBlock, module)
    x = block.conv(x)
    return F.pixel_shuffle(x, block.factor) if block.factor > 1 else x


def _decode(decoder: Decoder, image: Tensor, features: list[Tensor], block: Answer) -> Tensor:
    skips = zip(decoder.skips, features, LEVELS[1:], strict=True)
    sides = [block(skip, x, stride) for skip, x, stride in skips]
    x = sides.pop()
    side = image
    for module in decoder.image:
        side = block(module, side, cast(TaskCompositionBlock, module).stride)
    sides.insert(0, side)
    for stage, stride in zip(decoder.stages, (16, 8, 4, 2, 1), strict=True):
        if cast(TaskCompositionBlock, stage).factor == 1:
            corners = decoder.config.align_corners
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=corners)
        x = block(stage, torch.cat([x, sides.pop()], 1), stride)
    return cast(Tensor, decoder.head(x))


class Twin:
    """The same network with plain batch norm, folded into its convolutions, channels last.

    Args:
        model: Network in eval mode, whose first task the twin does.
    """

    @torch.no_grad()
    def __init__(self, model: CTN) -> None:
        self.encoder = fold_encoder(model.encoder)
        self.decoder = model.decoder.specialize(model.representation()[0])
        self.decoder.to(memory_format=torch.channels_last)
        for module in self.decoder.modules():
            if isinstance(module, TaskCompositionBlock):
                weight, bias = fold_block(module)
                conv: Any = module.conv
                conv = getattr(conv, "depthwise", conv)
                conv.weight.copy_(weight)
                conv.bias = nn.Parameter(bias.repeat_interleave(module.factor**2))
                module.norm = nn.Identity()

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        """Returns the raw outputs (N,3,H,W) of an image whose sides are multiples of 32."""
        x = normalize(image, self.encoder.mean, self.encoder.std)
        x = x.contiguous(memory_format=torch.channels_last)

        def block(module: nn.Module, x: Tensor, stride: int) -> Tensor:
            return F.leaky_relu_(_convolve(module, x))

        return _decode(self.decoder, x, self.encoder(x), block)
