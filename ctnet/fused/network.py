"""A whole network fused for inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ctnet.blocks.decoder import Decoder
from ctnet.blocks.decoder_config import LEVELS
from ctnet.blocks.encoders import Encoder
from ctnet.blocks.features import Features
from ctnet.blocks.palette_pyramid import MixtureMap, palette_pyramid, soft_pyramid
from ctnet.fused.bands import in_bands
from ctnet.fused.decoder import FusedDecoder, Levels, Memory
from ctnet.fused.folding import fold_encoder, pad_inside
from ctnet.fused.regions import Box, Plan, edit_plan, whole
from ctnet.fused.scale_shift import Step, step_by_blocks

Method = TypeVar("Method", bound=Callable[..., Any])

TILE = 512
"""Side in pixels of the tiles of a large image."""

TILED_FROM = 1536 * 1536
"""Images of more pixels than this are decoded in tiles, which limits memory."""

REMEMBERED_TO = 1024 * 1024
"""Largest number of pixels for which edits are incremental: remembered stages take much memory."""


def without_autocast(device: torch.device) -> torch.autocast:
    """Returns a context in which tensors keep their types: a fused network has chosen its own."""
    return torch.autocast(device.type, enabled=False)


def _in_own_types(method: Method) -> Method:
    """Makes a method, whose first argument are features, run without gradients and autocast."""

    @wraps(method)
    def run(network: FusedNetwork, features: Features, *args: Any, **options: Any) -> Any:
        with torch.no_grad(), without_autocast(features.image.device):
            return method(network, features, *args, **options)

    return cast(Method, run)


@dataclass(frozen=True)
class Parts:
    """The parts of a network.

    Attributes:
        encoders: One, or one for each task.
        decoders: One that the palette conditions, or a plain one for each task.
        embeddings: Task embeddings (K,E) that condition the decoder, None where they are plain.
        tasks: Number of tasks K.
    """

    encoders: Sequence[Encoder]
    decoders: Sequence[Decoder]
    embeddings: Tensor | None
    tasks: int


@dataclass(frozen=True)
class FusedNetwork:
    """Encoders and decoders in eval mode, fused.

    Attributes:
        encoders: One, or one for each task.
        decoders: One that the palette conditions, or a plain one for each task.
        tasks: Number of tasks K.
        conditioned: Whether the palette conditions the decoder.
        dtype: Type in which it computes.
    """

    encoders: tuple[Encoder, ...]
    decoders: tuple[FusedDecoder, ...]
    tasks: int
    conditioned: bool
    dtype: torch.dtype

    @classmethod
    def of(cls, parts: Parts, dtype: torch.dtype, step: Step = step_by_blocks) -> FusedNetwork:
        """Fuses a network's parts; see :meth:`ctnet.fused.mixin.FuseMixin.fuse`."""
        # Tensors made in inference mode could not be used outside of it.
        with torch.inference_mode(False), torch.no_grad():
            return cls(
                tuple(
                    cast(Encoder, cast(nn.Module, in_bands(pad_inside(fold_encoder(x)))).to(dtype))
                    for x in parts.encoders
                ),
                tuple(FusedDecoder(x, parts.embeddings, dtype, step) for x in parts.decoders),
                parts.tasks,
                parts.embeddings is not None,
                dtype,
            )

    @_in_own_types
    def decode(self, features: Features, palette: Tensor, wanted: Box | None = None) -> Tensor:
        """Does the requested tasks on an encoded image, or on a part of it.

        A large image is decoded in parts, each from all that it depends on: there are no seams.

        Args:
            features: The image (N,3,H,W), padded.
            palette: Task ids (N,H,W) or fractions (N,K,H,W), padded likewise.
            wanted: The part in pixels, None for the whole image.

        Returns:
            Raw outputs (N,3,*wanted.size).
        """
        size = features.image.shape[2], features.image.shape[3]
        box = wanted or whole(size)
        height, width = box.size
        if height * width <= TILED_FROM:
            return self._part(features, palette, box)
        answer = features.image.new_empty(len(features.image), 3, height, width)
        for top in range(box.top, box.bottom, TILE):
            for left in range(box.left, box.right, TILE):
                ends = min(top + TILE, box.bottom), min(left + TILE, box.right)
                tile = Box(top, left, *ends)
                part = self._part(features, palette, tile)
                answer[(..., *tile.within(box).slices)] = part
        return answer

    @_in_own_types
    def remember(self, features: Features, palette: Tensor) -> tuple[Tensor, Memory | None]:
        """Does the requested tasks as :meth:`decode`, and remembers what :meth:`edit` needs.

        Returns:
            Raw outputs (N,3,H,W), and the memory: None where there is none, because the image is
            large or the decoder unconditioned.
        """
        size = features.image.shape[2], features.image.shape[3]
        if not self.conditioned or size[0] * size[1] > REMEMBERED_TO:
            return self.decode(features, palette), None
        memory: Memory = {}
        part = self.decoders[0].plan(whole(size), size)
        return self._conditioned(features, palette, part, memory), memory

    @_in_own_types
    def edit(
        self, features: Features, palette: Tensor, changed: Box, memory: Memory | None
    ) -> tuple[Tensor, Box]:
        """Does the requested tasks where a changed palette makes a difference.

        Args:
            features: The image (N,3,H,W), padded.
            palette: As for :meth:`decode`.
            changed: The pixels that it asks for something else at.
            memory: What :meth:`remember` gave; it is brought up to date.

        Returns:
            Raw outputs of a part, and where that is in the image, in pixels.
        """
        size = features.image.shape[2], features.image.shape[3]
        part = edit_plan(changed, size, self.decoders[0].reach)
        box = part.outputs[1]
        if memory is None:
            return self.decode(features, palette, box), box
        return self._conditioned(features, palette, part, memory), box

    @_in_own_types
    def decode_all(self, features: Features) -> Tensor:
        """Does every task everywhere: raw outputs (N,K,3,H,W).

        Convolutions that no request changes are computed once.
        """
        image = features.image
        size = image.shape[2], image.shape[3]
        answer = image.new_empty(len(image), self.tasks, 3, *size)
        if self.conditioned and size[0] * size[1] <= TILED_FROM:
            decoder, pyramid = self.decoders[0], features.pyramids[0]
            prepared = decoder.prepare(image, pyramid)
            weights = torch.eye(self.tasks, dtype=image.dtype, device=image.device)
            for task in range(self.tasks):
                levels = dict.fromkeys(LEVELS, MixtureMap(weights[task, None], None))
                answer[:, task] = decoder(image, pyramid, levels, prepared=prepared)
            return answer
        for task in range(self.tasks):
            palette = torch.full((1, 1, 1), task, device=image.device).expand(len(image), *size)
            answer[:, task] = self.decode(features, palette)
        return answer

    def _levels(self, palette: Tensor, dtype: torch.dtype) -> Levels:
        if palette.is_floating_point():
            return soft_pyramid(palette, LEVELS)
        return palette_pyramid(palette, self.tasks, LEVELS, dtype)

    def _part(self, features: Features, palette: Tensor, box: Box) -> Tensor:
        size = features.image.shape[2], features.image.shape[3]
        part = self.decoders[0].plan(box, size)
        made = part.outputs[1]
        if self.conditioned:
            answer = self._conditioned(features, palette, part)
        else:
            answer = self._compose(features, palette[(..., *made.slices)], part)
        return answer[(..., *box.within(made).slices)]

    def _conditioned(
        self, features: Features, palette: Tensor, part: Plan, memory: Memory | None = None
    ) -> Tensor:
        """Runs the decoder that the palette conditions."""
        levels = self._levels(palette[(..., *part.grid.slices)], features.image.dtype)
        image, pyramid = features.image, features.pyramids[0]
        return self.decoders[0](image, pyramid, levels, part, memory=memory)

    def _compose(self, features: Features, palette: Tensor, part: Plan) -> Tensor:
        """Composes the outputs of plain decoders, each where its task is requested."""
        image, soft = features.image, palette.is_floating_point()
        composite = image.new_zeros(len(image), 3, *palette.shape[-2:])
        for task, decoder in enumerate(self.decoders):
            share = palette[:, task, None] if soft else (palette == task)[:, None]
            if not bool((share != 0).any()):
                continue
            pyramid = features.pyramids[task if len(self.encoders) > 1 else 0]
            answer = decoder(image, pyramid, None, part)
            composite = (
                composite + share * answer if soft else torch.where(share, answer, composite)
            )
        return composite
