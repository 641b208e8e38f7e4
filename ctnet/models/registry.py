"""Which class builds which system: classes register themselves, as timm's models do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from ctnet.blocks.encoders import Pretrained
from ctnet.models.config import ModelConfig, System


class Network(nn.Module):
    """A module that a configuration describes.

    Attributes:
        config: What the network is.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks by id."""
        return self.config.tasks

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device


Builder = TypeVar("Builder", bound=Callable[[ModelConfig, Pretrained], Network])

SYSTEMS: dict[str, Callable[[ModelConfig, Pretrained], Network]] = {}
"""Network classes by system; :mod:`ctnet.models` imports all of them."""


def register(system: System) -> Callable[[Builder], Builder]:
    """Registers the class that builds networks of a system."""

    def enter(builder: Builder) -> Builder:
        SYSTEMS[system] = builder
        return builder

    return enter


def build_network(config: ModelConfig, pretrained_encoder: Pretrained = False) -> Network:
    """Builds the network that a configuration describes, of any kind.

    Args:
        config: The configuration.
        pretrained_encoder: Start from ImageNet weights, or the file that holds them.
    """
    return SYSTEMS[config.system](config, pretrained_encoder)
