"""The palette network: from an image alone to what to do where (section 6.2)."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ctnet import defaults
from ctnet.blocks.decoder import Decoder
from ctnet.blocks.encoders import Pretrained, create_encoder, normalize
from ctnet.blocks.features import prepare_image
from ctnet.images import ImageLike, load_image
from ctnet.models.config import ModelConfig
from ctnet.models.hub_mixin import HubMixin
from ctnet.models.registry import register
from ctnet.palette import Palette
from ctnet.prediction.working_size import network_input


@register("palette")
class PaletteNetwork(HubMixin):
    """Proposes a palette: a plain encoder and decoder with one score for each task at every pixel.

    Args:
        config: Its configuration, whose system is ``palette``; ``tasks`` are those that its
            palettes ask for.
        pretrained_encoder: Start the encoder from ImageNet weights, or the file that holds them.

    Attributes:
        config: As given.

    Raises:
        ValueError: If the configuration is another network's.
    """

    def __init__(self, config: ModelConfig, pretrained_encoder: Pretrained = False) -> None:
        super().__init__(config)
        if config.system != "palette":
            raise ValueError(f"a palette network's system is 'palette'; got {config.system!r}.")
        encoder = create_encoder(config.encoder, pretrained_encoder)
        self.encoder = encoder
        widths = replace(config.decoder_config, outputs=len(config.tasks))
        self.decoder = Decoder(widths, encoder.channels, conditioned=False)

    def forward(self, image: Tensor) -> Tensor:
        """Scores the tasks.

        Args:
            image: RGB in [0, 1] (N,3,H,W) or (3,H,W), float, any size.

        Returns:
            Scores (N,K,H,W) or (K,H,W); their softmax over K are probabilities.

        Raises:
            ValueError: If the shape or type is another.
        """
        padded = prepare_image(image, self.decoder.head.weight.dtype)
        padded = normalize(padded, self.encoder.mean, self.encoder.std)
        scores = self.decoder(padded, self.encoder(padded), None)
        scores = scores[..., : image.shape[-2], : image.shape[-1]]
        return cast(Tensor, scores if image.ndim == 4 else scores[0])

    def fractions(self, image: Tensor) -> Tensor:
        """Returns a differentiable soft palette (N,K,H,W) for :class:`ctnet.CompositeModel`.

        Gradients of the composite's loss reach this network through it: what to do where can be
        learned from how well it is done.

        Example::

            composite = model(image, network.fractions(image))
        """
        return cast(Tensor, self(image)).softmax(-3)

    def predict(self, image: ImageLike, long_side: int = defaults.LONG_SIDE) -> Palette:
        """Proposes a palette for any image, at the image's own size.

        Args:
            image: What :func:`ctnet.images.load_image` takes.
            long_side: Longest side in pixels at which the network sees the image.

        Raises:
            FileNotFoundError: If the image is missing.
            ValueError: If it cannot be read.
        """
        pixels = load_image(image)
        seen = network_input(self, pixels, long_side)
        # Other threads may train or use the network as it is.
        training = any(module.training for module in self.modules())
        network = copy.deepcopy(self).eval() if training else self
        with torch.inference_mode(), torch.autocast(seen.device.type, enabled=False):
            scores = F.interpolate(network(seen).float(), pixels.shape[:2], mode="bilinear")
        return Palette(scores[0].argmax(0).to(torch.uint8).cpu().numpy(), self.tasks)
