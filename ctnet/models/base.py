"""The paper's three systems behind one call, ``model(image, palette)``: CTN, MHN and STN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast, overload

import torch
from torch import Tensor, nn

from ctnet.blocks.conditioned_batch_norm import TaskRepresentation, palette_pyramid, soft_pyramid
from ctnet.blocks.decoder import LEVELS, Condition, Decoder, DecoderConfig
from ctnet.blocks.encoders import Encoder, Pretrained, create_encoder, normalize
from ctnet.blocks.features import Features, Pyramids, pad_to_grid, prepare_image
from ctnet.fused.network import Conditioned, Fusable
from ctnet.label_tables import LabelTables
from ctnet.labels import AnchorReader, ClassReader
from ctnet.models.config import ModelConfig, System
from ctnet.models.hub_mixin import Shared
from ctnet.palette import Palette
from ctnet.tasks import DEFAULT_TASKS, IGNORE, get_task

if TYPE_CHECKING:
    from ctnet.fused.session import Session
    from ctnet.prediction.predict import ImageLike, PaletteLike, Prediction


class CompositeModel(Fusable, Shared):
    """A network that does each task where a palette asks for it.

    Attributes:
        config: What the network is.
    """

    def __init__(self, config: ModelConfig, pretrained_encoder: Pretrained = False) -> None:
        super().__init__()
        self.config = config
        self._build(pretrained_encoder)
        self.label_tables = LabelTables(
            {task: len(get_task(task).classes) for task in config.label_tables}
        )

    def _build(self, pretrained_encoder: Pretrained) -> None:
        raise NotImplementedError

    def _encoders(self) -> Sequence[Encoder]:
        raise NotImplementedError

    def _decode(self, features: Features, palette: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks by id."""
        return self.config.tasks

    @property
    def readers(self) -> dict[str, ClassReader]:
        """What reads the classes of a task: its label table, or anchors of the network's own."""
        found: dict[str, ClassReader] = {
            entry.task: AnchorReader(entry.points) for entry in self.config.anchors
        }
        return found | {task: self.label_tables.reader(task) for task in self.label_tables.tasks}

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def encode(self, image: Tensor) -> Features:
        """Computes what does not depend on the palette.

        Args:
            image: RGB in [0, 1] (N,3,H,W) or (3,H,W), float, any size.

        Returns:
            Features for :meth:`decode`.

        Raises:
            ValueError: If the shape or type is another.
        """
        network = self._usable()
        encoders = self._encoders() if network is None else network.encoders
        padded = prepare_image(image, next(self.parameters()).dtype)
        padded = normalize(padded, encoders[0].mean, encoders[0].std)
        seen = padded
        if network is not None:
            seen = padded.to(network.dtype).contiguous(memory_format=torch.channels_last)
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
        network = self._usable()
        run = self._decode if network is None else network.decode
        height, width = features.size
        return run(features, padded)[..., :height, :width]

    def padded_palette(self, features: Features, palette: Tensor | Palette) -> Tensor:
        """Checks a palette and pads it as its image is: (N,H',W') or (N,K,H',W').

        Raises:
            ValueError: If the palette has another size, an unknown id or invalid fractions.
        """
        n = features.image.shape[0]
        ids = self._palette_tensor(palette, (n, *features.size)).to(features.image.device)
        if ids.is_floating_point():
            return pad_to_grid(ids.to(features.image.dtype))
        if features.size == features.image.shape[2:]:
            return ids
        return pad_to_grid(ids[:, None].float())[:, 0].long()

    def decode_all(self, features: Features) -> Tensor:
        """Does every task everywhere; what does not depend on the task is computed once.

        Always without gradients, by :meth:`compiled`.

        Args:
            features: What :meth:`encode` gave.

        Returns:
            Raw outputs (N,K,3,H,W) in the order of :attr:`tasks`.

        Raises:
            ValueError: If the network is in training mode.
        """
        height, width = features.size
        return self.compiled().decode_all(features)[..., :height, :width]

    def session(self, image: Tensor) -> Session:
        """Encodes an image for palettes that are edited step by step; see :class:`Session`."""
        from ctnet.fused.session import Session

        return Session(self, image)

    def forward(self, image: Tensor, palette: Tensor | Palette) -> Tensor:
        """Does the requested tasks: :meth:`decode` of :meth:`encode`.

        Returns:
            The composite's raw outputs (N,3,H,W), or (3,H,W) for a single image.
        """
        composite = self.decode(self.encode(image), palette)
        return composite if image.ndim == 4 else composite[0]

    @overload
    def predict(  # type: ignore[overload-overlap]  # a path of type str is no sequence of images
        self,
        image: ImageLike,
        palette: PaletteLike = ...,
        long_side: int | None = ...,
        seed: int = ...,
    ) -> Prediction: ...
    @overload
    def predict(
        self,
        image: Sequence[ImageLike],
        palette: PaletteLike = ...,
        long_side: int | None = ...,
        seed: int = ...,
    ) -> list[Prediction]: ...
    def predict(
        self,
        image: ImageLike | Sequence[ImageLike],
        palette: PaletteLike = "mosaic",
        long_side: int | None = None,
        seed: int = 0,
    ) -> Prediction | list[Prediction]:
        """Predicts on any image, at its own size; see :func:`ctnet.prediction.predict.predict`."""
        from ctnet.prediction.predict import DEFAULT_LONG_SIDE, predict

        side = DEFAULT_LONG_SIDE if long_side is None else long_side
        return predict(self, image, palette, side, seed)

    def predict_all(self, image: ImageLike, long_side: int | None = None) -> dict[str, Prediction]:
        """Does every task everywhere; see :func:`ctnet.prediction.predict.predict_all`."""
        from ctnet.prediction.predict import DEFAULT_LONG_SIDE, predict_all

        return predict_all(self, image, DEFAULT_LONG_SIDE if long_side is None else long_side)

    def _palette_tensor(self, palette: Tensor | Palette, shape: tuple[int, int, int]) -> Tensor:
        """Checks a palette against the expected (N,H,W) and gives it that batch size."""
        if isinstance(palette, Palette):
            if palette.tasks != self.tasks:
                raise ValueError(f"the palette's tasks are {palette.tasks}, ours {self.tasks}.")
            palette = palette.tensor()
        n, height, width = shape
        if palette.is_floating_point():
            return self._soft_palette(palette, shape)
        if palette.dtype == torch.bool:
            raise ValueError("a palette holds task ids (int) or fractions (float); got bool.")
        if palette.ndim == 2:
            palette = palette[None]
        if palette.ndim != 3 or palette.shape[1:] != (height, width) or len(palette) not in (1, n):
            raise ValueError(
                f"the palette is {tuple(palette.shape)}, the image {shape}: both need the same "
                "height and width, and one palette or one for each image."
            )
        palette = palette.long()
        # One of several processes that train together may have no image with a label.
        if not palette.numel():
            return palette
        lowest, highest = int(palette.min()), int(palette.max())
        # Most palettes ask for something everywhere: no need to look at each pixel twice.
        if lowest < 0 or highest >= len(self.tasks):
            known = (palette >= 0) & (palette < len(self.tasks)) | (palette == IGNORE)
            if bool(known.all()):
                return palette.expand(n, -1, -1)
            unknown = sorted({int(i) for i in torch.unique(palette[~known])})
            ids = ", ".join(f"{i} = {name}" for i, name in enumerate(self.tasks))
            raise ValueError(f"unknown task ids {unknown[:5]}; known: {ids}, {IGNORE} = nothing.")
        return palette.expand(n, -1, -1)

    def _soft_palette(self, palette: Tensor, shape: tuple[int, int, int]) -> Tensor:
        n, height, width = shape
        if palette.ndim == 3:
            palette = palette[None]
        wanted = (len(self.tasks), height, width)
        if palette.ndim != 4 or palette.shape[1:] != wanted or len(palette) not in (1, n):
            raise ValueError(
                f"a palette of fractions is (N,K,H,W), here {(n, *wanted)}; got "
                f"{tuple(palette.shape)}."
            )
        sums = palette.detach().sum(1)
        if bool((palette.detach() < 0).any()) or not torch.allclose(
            sums, torch.ones_like(sums), atol=1e-3
        ):
            raise ValueError("a palette of fractions is at least 0 and sums to 1 over the tasks.")
        return palette.expand(n, -1, -1, -1)


class CTN(CompositeModel):
    """CompositeTasking network: one encoder, one decoder that the palette conditions."""

    def _build(self, pretrained_encoder: Pretrained) -> None:
        config = self.config.decoder_config
        encoder = create_encoder(self.config.encoder, pretrained_encoder)
        self.encoder = encoder
        self.representation = TaskRepresentation(
            len(self.tasks),
            self.config.code_length,
            config.embedding,
            added=self.config.added,
        )
        self.decoder = Decoder(config, encoder.channels, conditioned=True)

    def _encoders(self) -> Sequence[Encoder]:
        return [self.encoder]

    def _parts(self) -> tuple[Sequence[Encoder], Sequence[Conditioned], int]:
        return [self.encoder], [(self.decoder, self.representation())], len(self.tasks)

    def _decode(self, features: Features, palette: Tensor) -> Tensor:
        embeddings = self.representation()
        if palette.is_floating_point():
            levels = soft_pyramid(palette, LEVELS)
        else:
            levels = palette_pyramid(palette, len(self.tasks), LEVELS, embeddings.dtype)
        condition = Condition(embeddings, levels)
        return cast(Tensor, self.decoder(features.image, features.pyramids[0], condition))


def _any_of_each(masks: Sequence[Tensor]) -> list[bool]:
    return [bool(mask.any()) for mask in masks]


class _PerTaskModel(CompositeModel):
    """Makes the composite of a plain answer per task, each computed only where it is asked.

    Attributes:
        anywhere: Says of the pixels that ask for each task whether there are any; processes that
            share a batch have it look at all of them.
    """

    def __init__(self, config: ModelConfig, pretrained_encoder: Pretrained = False) -> None:
        super().__init__(config, pretrained_encoder)
        self.anywhere: Callable[[Sequence[Tensor]], list[bool]] = _any_of_each

    def _answer(self, features: Features, task: int) -> Tensor:
        raise NotImplementedError

    def _decode(self, features: Features, palette: Tensor) -> Tensor:
        n, _, height, width = features.image.shape
        composite = features.image.new_zeros(n, 3, height, width)
        soft = palette.is_floating_point()
        shares = [
            palette[:, task, None] if soft else (palette == task)[:, None]
            for task in range(len(self.tasks))
        ]
        asked = self.anywhere([share != 0 for share in shares])
        for task, share in enumerate(shares):
            if not asked[task]:
                continue
            answer = self._answer(features, task)
            composite = (
                composite + share * answer if soft else torch.where(share, answer, composite)
            )
        return composite


class MHN(_PerTaskModel):
    """Multi-head network: a shared encoder and one plain decoder a task."""

    def _build(self, pretrained_encoder: Pretrained) -> None:
        encoder = create_encoder(self.config.encoder, pretrained_encoder)
        self.encoder = encoder
        config = self.config.decoder_config
        self.decoders = nn.ModuleList(
            Decoder(config, encoder.channels, conditioned=False) for _ in self.tasks
        )

    def _encoders(self) -> Sequence[Encoder]:
        return [self.encoder]

    def _parts(self) -> tuple[Sequence[Encoder], Sequence[Conditioned], int]:
        decoders = cast(Sequence[Decoder], self.decoders)
        return [self.encoder], [(decoder, None) for decoder in decoders], len(self.tasks)

    def _answer(self, features: Features, task: int) -> Tensor:
        return cast(Tensor, self.decoders[task](features.image, features.pyramids[0], None))


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


class STN(_PerTaskModel):
    """Single-task networks: one whole network a task, in ``networks``."""

    def _build(self, pretrained_encoder: Pretrained) -> None:
        self.networks = nn.ModuleList(
            SingleTaskNetwork(self.config, pretrained_encoder) for _ in self.tasks
        )

    def _encoders(self) -> Sequence[Encoder]:
        return [network.encoder for network in cast(Sequence[SingleTaskNetwork], self.networks)]

    def _parts(self) -> tuple[Sequence[Encoder], Sequence[Conditioned], int]:
        networks = cast(Sequence[SingleTaskNetwork], self.networks)
        return self._encoders(), [(n.decoder, None) for n in networks], len(self.tasks)

    def _answer(self, features: Features, task: int) -> Tensor:
        network = cast(SingleTaskNetwork, self.networks[task])
        return cast(Tensor, network.decoder(features.image, features.pyramids[task], None))


SYSTEMS: dict[str, type[CompositeModel]] = {"ctn": CTN, "mhn": MHN, "stn": STN}


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
        decoder: ``paper``, ``compact``, ``light`` (the fastest) or a configuration of one's own.
        tasks: Names of the tasks; their order gives the ids.
        pretrained_encoder: Start the encoder from ImageNet weights, or the file that holds them;
            see :func:`ctnet.blocks.encoders.create_encoder`.

    Raises:
        ValueError: If a name is unknown; the message names the nearest match.
    """
    config = ModelConfig(cast(System, system), encoder, decoder, tuple(tasks))
    return build(config, pretrained_encoder)


def build(config: ModelConfig, pretrained_encoder: Pretrained = False) -> CompositeModel:
    """Builds the network that a configuration describes.

    Raises:
        ValueError: If it describes a palette network, which is no composite model.
    """
    if config.system not in SYSTEMS:
        raise ValueError(
            f"a network of system {config.system!r} proposes palettes and does no task; see "
            "ctnet.load_palette_network."
        )
    return SYSTEMS[config.system](config, pretrained_encoder)
