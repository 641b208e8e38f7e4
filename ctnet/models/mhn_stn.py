"""The paper's baselines: a plain decoder for each task (MHN), a whole network for each (STN)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ctnet.blocks.decoder import Decoder
from ctnet.blocks.encoders import Encoder, Pretrained, create_encoder
from ctnet.blocks.features import Features
from ctnet.fused.network import Parts
from ctnet.models.base import CompositeModel
from ctnet.models.config import ModelConfig
from ctnet.models.registry import register


def _any_of_each(masks: Sequence[Tensor]) -> list[bool]:
    return [bool(mask.any()) for mask in masks]


class PerTaskModel(CompositeModel):
    """Puts a composite together from a plain answer for each task that is requested somewhere.

    Attributes:
        anywhere: Says of the pixels that request each task whether there are any; processes that
            share a batch have it look at all of them.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.anywhere: Callable[[Sequence[Tensor]], list[bool]] = _any_of_each

    @property
    def task_decoders(self) -> Sequence[Decoder]:
        """The decoder of each task."""
        raise NotImplementedError

    def parts(self) -> Parts:
        """Returns what the network is made of."""
        return Parts(self.encoders, self.task_decoders, None, len(self.tasks))

    def stage_features(self, features: Features, palette: Tensor) -> dict[int, Iterator[Tensor]]:
        """Runs the requested decoders stage by stage, as far as the caller goes on."""
        return {
            task: self.task_decoders[task].stage_features(*self._inputs(features, task), None)
            for task in self._requested(palette)
        }

    def decode_padded(self, features: Features, palette: Tensor) -> Tensor:
        """Does the requested tasks of a palette that is as large as the padded image."""
        n, _, height, width = features.image.shape
        composite = features.image.new_zeros(n, 3, height, width)
        for task, share in self._requested(palette).items():
            answer = self.task_decoders[task](*self._inputs(features, task), None)
            if palette.is_floating_point():
                composite = composite + share * answer
            else:
                composite = torch.where(share, answer, composite)
        return composite

    def _requested(self, palette: Tensor) -> dict[int, Tensor]:
        """Returns the share (N,1,H,W) of each task at each pixel, of those requested somewhere."""
        soft = palette.is_floating_point()
        shares = [
            palette[:, task, None] if soft else (palette == task)[:, None]
            for task in range(len(self.tasks))
        ]
        found = self.anywhere([share != 0 for share in shares])
        return {task: share for task, share in enumerate(shares) if found[task]}

    def _inputs(self, features: Features, task: int) -> tuple[Tensor, list[Tensor]]:
        """Returns the image and the features that the decoder of a task sees."""
        number = task if len(features.pyramids) > 1 else 0
        return features.image, features.pyramids[number]


@register("mhn")
class MHN(PerTaskModel):
    """Multi-head network: a shared encoder and one plain decoder for each task.

    Args:
        config: Its configuration.
        pretrained_encoder: Start from ImageNet weights, or the file that holds them.
    """

    def __init__(self, config: ModelConfig, pretrained_encoder: Pretrained = False) -> None:
        super().__init__(config)
        encoder = create_encoder(config.encoder, pretrained_encoder)
        self.encoder = encoder
        self.decoders = nn.ModuleList(
            Decoder(config.decoder_config, encoder.channels, conditioned=False)
            for _ in config.tasks
        )

    @property
    def encoders(self) -> Sequence[Encoder]:
        """The encoder."""
        return [self.encoder]

    @property
    def task_decoders(self) -> Sequence[Decoder]:
        """The decoder of each task."""
        return cast(Sequence[Decoder], self.decoders)


class SingleTaskNetwork(nn.Module):
    """A plain encoder and decoder for one task.

    Args:
        config: Configuration of the STN that it belongs to.
        pretrained_encoder: Start from ImageNet weights, or the file that holds them.
    """

    def __init__(self, config: ModelConfig, pretrained_encoder: Pretrained) -> None:
        super().__init__()
        encoder = create_encoder(config.encoder, pretrained_encoder)
        self.encoder = encoder
        self.decoder = Decoder(config.decoder_config, encoder.channels, conditioned=False)


@register("stn")
class STN(PerTaskModel):
    """Single-task networks: one whole network for each task, in ``networks``.

    Args:
        config: Its configuration.
        pretrained_encoder: Start from ImageNet weights, or the file that holds them.
    """

    def __init__(self, config: ModelConfig, pretrained_encoder: Pretrained = False) -> None:
        super().__init__(config)
        self.networks = nn.ModuleList(
            SingleTaskNetwork(config, pretrained_encoder) for _ in config.tasks
        )

    @property
    def encoders(self) -> Sequence[Encoder]:
        """The encoder of each task."""
        return [network.encoder for network in cast(Sequence[SingleTaskNetwork], self.networks)]

    @property
    def task_decoders(self) -> Sequence[Decoder]:
        """The decoder of each task."""
        return [network.decoder for network in cast(Sequence[SingleTaskNetwork], self.networks)]
