"""Large photographs in bands of rows: an encoder's wide features are never whole in memory."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ctnet.blocks.efficientnet_lite import InvertedResidual
from ctnet.blocks.encoders import Encoder

BANDED_FROM = 512 * 512
"""Cells of a map from which on it is taken in bands."""

BAND = 1 << 17
"""Cells of a band."""

HALO = 8
"""Rows on either side of a band that are computed with it and left out of the answer: more than
any kernel reaches, and a multiple of every stride."""


class Bands(nn.Module):
    """An inverted residual that takes a large map a band of rows at a time, with the same answer.

    Its inner features have six times the channels of its input, at the resolution of its input: 1.1
    GiB in the second stage of a photograph of 4000 x 3000 pixels.
    """

    def __init__(self, block: InvertedResidual) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N,inputs,H,W) to (N,outputs,H/stride,W/stride)."""
        height, width = x.shape[2:]
        if height * width <= BANDED_FROM:
            return cast(Tensor, self.block(x))
        stride = self.block.depthwise.conv.stride[0]
        rows = max(HALO, BAND // width // HALO * HALO)
        answer: Tensor | None = None
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            first = max(0, top - HALO)
            y = self.block(x[:, :, first : bottom + HALO])
            if answer is None:
                size = (*y.shape[:2], height // stride, y.shape[3])
                answer = torch.empty(
                    size, dtype=y.dtype, device=y.device, memory_format=torch.channels_last
                )
            skipped = (top - first) // stride
            answer[:, :, top // stride : bottom // stride] = y[
                :, :, skipped : skipped + (bottom - top) // stride
            ]
        return cast(Tensor, answer)


def in_bands(encoder: Encoder) -> Encoder:
    """Makes the inverted residuals of an encoder in eval mode take large maps in bands; in place.

    Args:
        encoder: A folded encoder; one without inverted residuals of ours stays as it is.

    Returns:
        The encoder.
    """
    network = cast(nn.Module, encoder)
    for name, module in list(network.named_modules()):
        if isinstance(module, InvertedResidual):
            network.set_submodule(name, Bands(module))
    return encoder
