"""The CompositeTasking network: one encoder, one decoder that the palette conditions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from ctnet.blocks.decoder import Decoder
from ctnet.blocks.decoder_config import LEVELS
from ctnet.blocks.encoders import Encoder, Pretrained, create_encoder
from ctnet.blocks.features import Features
from ctnet.blocks.palette_pyramid import palette_pyramid, soft_pyramid
from ctnet.blocks.task_composition import Condition
from ctnet.blocks.task_representation import TaskRepresentationBlock
from ctnet.fused.network import Parts
from ctnet.models.base import CompositeModel
from ctnet.models.config import ModelConfig
from ctnet.models.registry import register


@register("ctn")
class CTN(CompositeModel):
    """CompositeTasking network: any task at any pixel, by one decoder.

    Args:
        config: Its configuration.
        pretrained_encoder: Start from ImageNet weights, or the file that holds them.
    """

    def __init__(self, config: ModelConfig, pretrained_encoder: Pretrained = False) -> None:
        super().__init__(config)
        widths = config.decoder_config
        encoder = create_encoder(config.encoder, pretrained_encoder)
        self.encoder = encoder
        self.representation = TaskRepresentationBlock(
            len(config.tasks), config.code_length, widths.embedding, added=config.added
        )
        self.decoder = Decoder(widths, encoder.channels, conditioned=True)

    @property
    def encoders(self) -> Sequence[Encoder]:
        """The encoder."""
        return [self.encoder]

    def parts(self) -> Parts:
        """Returns what the network is made of."""
        return Parts(self.encoders, [self.decoder], self.representation(), len(self.tasks))

    def condition(self, palette: Tensor) -> Condition:
        """Returns what the decoder needs of a palette, ids or fractions, of the padded size."""
        embeddings = self.representation()
        if palette.is_floating_point():
            return Condition(embeddings, soft_pyramid(palette, LEVELS))
        levels = palette_pyramid(palette, len(self.tasks), LEVELS, embeddings.dtype)
        return Condition(embeddings, levels)

    def stage_features(self, features: Features, palette: Tensor) -> dict[int, Iterator[Tensor]]:
        """Runs the decoder stage by stage, as far as the caller goes on."""
        inputs = features.image, features.pyramids[0]
        return {0: self.decoder.stage_features(*inputs, self.condition(palette))}

    def decode_padded(self, features: Features, palette: Tensor) -> Tensor:
        """Does the requested tasks of a palette that is as large as the padded image."""
        inputs = features.image, features.pyramids[0]
        composite: Tensor = self.decoder(*inputs, self.condition(palette))
        return composite
