"""The base of CTN, MHN and STN: one call, ``model(image, palette)``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from ctnet import defaults
from ctnet.blocks.decoder_config import DecoderConfig
from ctnet.blocks.encoders import Encoder, Pretrained, normalize
from ctnet.blocks.features import Features, Pyramids, pad_to_grid, prepare_image
from ctnet.fused.mixin import FuseMixin
from ctnet.fused.network import without_autocast
from ctnet.fused.session import Session
from ctnet.label_tables import LabelTables
from ctnet.labels import AnchorReader, ClassReader
from ctnet.models.checkpoint import load_network
from ctnet.models.config import ModelConfig, System
from ctnet.models.hub_mixin import HubMixin
from ctnet.models.palette_tensor import palette_tensor
from ctnet.models.registry import build_network
from ctnet.palette import Palette
from ctnet.prediction.predict import PaletteLike, PredictMixin, Proposer, Request
from ctnet.tasks import DEFAULT_TASKS, get_task
from ctnet.zoo.locate import locate

AUTO = "auto"
"""Name of the palette that the palette network proposes."""


class CompositeModel(PredictMixin, FuseMixin, HubMixin):
    """A network that does each task where a palette asks for it.

    Attributes:
        config: What the network is.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.label_tables = LabelTables(
            {task: len(get_task(task).classes) for task in config.label_tables}
        )

    @property
    def encoders(self) -> Sequence[Encoder]:
        """The encoder, or that of each task."""
        raise NotImplementedError

    def stage_features(self, features: Features, palette: Tensor) -> dict[int, Iterator[Tensor]]:
        """Runs the decoders that a palette asks for stage by stage, as far as the caller goes on.

        Args:
            features: What :meth:`encode` gave.
            palette: What :meth:`padded_palette` gave.

        Returns:
            What the stages give, by the decoder's number; see
            :meth:`ctnet.blocks.decoder.Decoder.stage_features`.
        """
        raise NotImplementedError

    def decode_padded(self, features: Features, palette: Tensor) -> Tensor:
        """Does the requested tasks of a palette that is as large as the padded image.

        Args:
            features: What :meth:`encode` gave.
            palette: What :meth:`padded_palette` gave.

        Returns:
            Raw outputs (N,3,H',W').
        """
        raise NotImplementedError

    @property
    def readers(self) -> dict[str, ClassReader]:
        """What reads the classes of a task: its label table, or anchors of the network's own."""
        tables = {task: self.label_tables.reader(task) for task in self.label_tables.tasks}
        return self.anchor_readers | tables

    @property
    def anchor_readers(self) -> dict[str, ClassReader]:
        """What reads the classes by eq. 5: the network's own anchors of a task, if it has any."""
        return {entry.task: AnchorReader(entry.points) for entry in self.config.anchors}

    def encode(self, image: Tensor) -> Features:
        """Computes what does not depend on the palette.

        Args:
            image: RGB in [0, 1] (N,3,H,W) or (3,H,W), float, any size.

        Returns:
            Features for :meth:`decode`.

        Raises:
            ValueError: If the shape or type is another.
        """
        network = self.fused_if_used()
        encoders = self.encoders if network is None else network.encoders
        padded = prepare_image(image, next(self.parameters()).dtype)
        padded = normalize(padded, encoders[0].mean, encoders[0].std)
        seen = padded
        types: AbstractContextManager[object] = nullcontext()
        if network is not None:
            seen = padded.to(network.dtype).contiguous(memory_format=torch.channels_last)
            types = without_autocast(padded.device)
        with types:
            # One of many encoders waits until its task is asked for.
            known = {0: encoders[0](seen)} if len(encoders) == 1 else {}
        pyramids = Pyramids(seen, encoders, known)
        return Features(padded, pyramids, (image.shape[-2], image.shape[-1]))

    def decode(self, features: Features, palette: Tensor | Palette) -> Tensor:
        """Does the requested tasks on an encoded image.

        Args:
            features: What :meth:`encode` gave.
            palette: Task ids (N,H,W) or (H,W), 255 = nothing asked; a :class:`ctnet.Palette`; or
                float fractions (N,K,H,W) that sum to 1 over the tasks. One palette serves a
                whole batch.

        Returns:
            The composite's raw outputs (N,3,H,W).

        Raises:
            ValueError: If the palette has another size, an unknown id or invalid fractions.
        """
        padded = self.padded_palette(features, palette)
        network = self.fused_if_used()
        run = self.decode_padded if network is None else network.decode
        height, width = features.size
        return run(features, padded)[..., :height, :width]

    def padded_palette(self, features: Features, palette: Tensor | Palette) -> Tensor:
        """Checks a palette and pads it as its image is: (N,H',W') or (N,K,H',W').

        Raises:
            ValueError: If the palette has another size, an unknown id or invalid fractions.
        """
        n = features.image.shape[0]
        ids = palette_tensor(palette, self.tasks, (n, *features.size)).to(features.image.device)
        if ids.is_floating_point():
            return pad_to_grid(ids.to(features.image.dtype))
        if features.size == features.image.shape[2:]:
            return ids
        return pad_to_grid(ids[:, None].float())[:, 0].long()

    def decode_all(self, features: Features) -> Tensor:
        """Does every task everywhere; what does not depend on the task is computed once.

        Always without gradients, by the fused network.

        Args:
            features: What :meth:`encode` gave.

        Returns:
            Raw outputs (N,K,3,H,W) in the order of :attr:`tasks`.

        Raises:
            ValueError: If the network is in training mode.
        """
        height, width = features.size
        return self.fused_network().decode_all(features)[..., :height, :width]

    def session(self, image: Tensor) -> Session:
        """Encodes an image for palettes that are edited step by step; see :class:`Session`."""
        return Session(self, image)

    def forward(self, image: Tensor, palette: Tensor | Palette) -> Tensor:
        """Does the requested tasks: :meth:`decode` of :meth:`encode`.

        Returns:
            The composite's raw outputs (N,3,H,W), or (3,H,W) for a single image.
        """
        composite = self.decode(self.encode(image), palette)
        return composite if image.ndim == 4 else composite[0]

    def resolve_palette(self, palette: PaletteLike) -> Request:
        """Finds what the palette of :meth:`predict` stands for, and checks its tasks.

        Many images in turn need this only once, and what is wrong with it shows before the first.

        Raises:
            FileNotFoundError: If a palette or rule file is missing.
            ValueError: If a rule is unknown or needs a segmentation that the network does not do,
                or a palette asks for other tasks than the network's.
        """
        if isinstance(palette, str) and palette == AUTO:
            palette = proposer(self.device)
        return super().resolve_palette(palette)


@lru_cache(maxsize=1)
def proposer(device: torch.device) -> Proposer:
    """Returns the zoo's palette network, loaded once."""
    return cast(Proposer, load_network(locate(defaults.PALETTE_NETWORK)).to(device))


def create(
    system: str = "ctn",
    encoder: str = "efficientnet_lite0",
    decoder: str | DecoderConfig = "compact",
    tasks: Sequence[str] = DEFAULT_TASKS,
    pretrained_encoder: Pretrained = False,
) -> CompositeModel:
    """Builds an untrained network.

    Args:
        system: ``ctn``, ``mhn`` or ``stn`` (one network a task, in ``.networks``).
        encoder: ``resnet18``, ``resnet34``, ``resnet50``, ``efficientnet_lite0``,
            ``efficientnet_lite2`` or ``timm:NAME``.
        decoder: ``paper``, ``compact``, ``light`` (the fastest) or a configuration of your own.
        tasks: Names of the tasks; their order gives the ids.
        pretrained_encoder: Start the encoder from ImageNet weights, or the file that holds them;
            see :func:`ctnet.blocks.encoders.create_encoder`.

    Raises:
        ValueError: If a name is unknown; the message names the nearest match.
    """
    config = ModelConfig(cast(System, system), encoder, decoder, tuple(tasks))
    return build(config, pretrained_encoder)


def build(config: ModelConfig, pretrained_encoder: Pretrained = False) -> CompositeModel:
    """Builds the CTN, MHN or STN that a configuration describes.

    Raises:
        ValueError: If it describes a palette network, which is no composite model.
    """
    network = build_network(config, pretrained_encoder)
    if not isinstance(network, CompositeModel):
        raise ValueError(
            f"a network of system {config.system!r} proposes palettes and does no task; build it "
            "by ctnet.PaletteNetwork(config)."
        )
    return network
