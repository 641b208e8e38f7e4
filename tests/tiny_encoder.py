"""An encoder of a few weights, for tests of training."""

from __future__ import annotations

import itertools

from torch import Tensor, nn


class TinyEncoder(nn.Module):
    """Five strided convolutions under the contract of the real encoders."""

    channels = (4, 5, 6, 7, 8)
    mean = (0.5, 0.5, 0.5)
    std = (0.25, 0.25, 0.25)

    def __init__(self) -> None:
        super().__init__()
        for number, (inputs, outputs) in enumerate(itertools.pairwise((3, *self.channels))):
            conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
            self.add_module(f"stage{number}", nn.Sequential(conv, nn.BatchNorm2d(outputs)))

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for stage in self.children():
            x = stage(x).relu()
            features.append(x)
        return features
