"""The network without any conditioning: the least that it can cost."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ctnet.blocks.encoders import normalize
from ctnet.blocks.task_composition import TaskCompositionBlock
from ctnet.fused.folding import fold_block, fold_encoder
from ctnet.models.ctn import CTN


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
        answer: Tensor = self.decoder(x, self.encoder(x), None)
        return answer
