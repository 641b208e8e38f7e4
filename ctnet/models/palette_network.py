"""The palette network: from an image alone to what to do where (section 6.2)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ctnet.blocks.decoder import Decoder
from ctnet.blocks.encoders import Pretrained, create_encoder, normalize
from ctnet.blocks.features import prepare_image
from ctnet.models.base import CompositeModel, build
from ctnet.models.config import ModelConfig
from ctnet.models.hub_mixin import Shared
from ctnet.palette import Palette

if TYPE_CHECKING:
    from ctnet.prediction.predict import ImageLike


class PaletteNetwork(Shared):
    """Proposes a palette: a plain encoder and decoder with one score a task at every pixel.

    Args:
        config: Its configuration, whose system is ``palette``; ``tasks`` are those that its
            palettes ask for.
        pretrained_encoder: Start the encoder from ImageNet weights, or the file that holds them.

    Attributes:
        config: As given.
        tasks: Names of the tasks by id.

    Raises:
        ValueError: If the configuration is another network's.
    """

    def __init__(self, config: ModelConfig, pretrained_encoder: Pretrained = False) -> None:
        super().__init__()
        if config.system != "palette":
            raise ValueError(f"a palette network's system is 'palette'; got {config.system!r}.")
        self.config = config
        self.tasks = config.tasks
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
        """Returns a soft palette (N,K,H,W) for :meth:`CompositeModel.forward`, differentiable.

        Gradients of the composite's loss reach this network through it: what to do where can be
        learned from how well it is done.

        Example::

            composite = model(image, network.fractions(image))
        """
        return cast(Tensor, self(image)).softmax(-3)

    def predict(self, image: ImageLike, long_side: int | None = None) -> Palette:
        """Proposes a palette for any image, at the image's own size.

        Args:
            image: What :func:`ctnet.images.load_image` takes.
            long_side: Longest side in pixels at which the network sees the image; None for the
                default of :func:`ctnet.prediction.predict.predict`.

        Raises:
            FileNotFoundError: If the image is missing.
            ValueError: If it cannot be read.
        """
        from ctnet.images import load_image
        from ctnet.prediction.predict import DEFAULT_LONG_SIDE, evaluating, network_input

        pixels = load_image(image)
        seen = network_input(self, pixels, DEFAULT_LONG_SIDE if long_side is None else long_side)
        with evaluating(self), torch.inference_mode():
            scores = F.interpolate(self(seen).float(), pixels.shape[:2], mode="bilinear")
        return Palette(scores[0].argmax(0).to(torch.uint8).cpu().numpy(), self.tasks)


def build_network(
    config: ModelConfig, pretrained_encoder: Pretrained = False
) -> CompositeModel | PaletteNetwork:
    """Builds the network that a configuration describes, of either kind."""
    if config.system == "palette":
        return PaletteNetwork(config, pretrained_encoder)
    return build(config, pretrained_encoder)
