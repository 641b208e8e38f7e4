"""A whole network compiled for inference, and the modules that can be compiled so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor, nn

from ctnet.blocks.conditioned_batch_norm import MixtureMap, palette_pyramid, soft_pyramid
from ctnet.blocks.decoder import LEVELS, Decoder
from ctnet.blocks.encoders import Encoder
from ctnet.blocks.features import Features
from ctnet.fused.decoder import FusedDecoder, Levels, Memory
from ctnet.fused.folding import fold_encoder, pad_inside
from ctnet.fused.regions import Box, Plan, edit_plan, whole
from ctnet.fused.scale_shift import Step, compiled_step, step_by_blocks

TILE = 512
"""Side in pixels of the parts in which a large image is decoded."""

TILED_FROM = 1536 * 1536
"""Images of more pixels than this are decoded in parts, which bounds the memory."""

REMEMBERED_TO = 1024 * 1024
"""Of images of more pixels than this an edit starts anew: the stages' answers take much memory."""

Conditioned = tuple[Decoder, Tensor | None]
"""A decoder, and the task embeddings (K,E) that condition it, None for a plain one."""


@dataclass(frozen=True)
class FusedNetwork:
    """Encoders and decoders in eval mode, compiled.

    Attributes:
        encoders: One, or one a task.
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
    def compile(
        cls,
        encoders: Sequence[Encoder],
        decoders: Sequence[Conditioned],
        tasks: int,
        dtype: torch.dtype,
        step: Step = step_by_blocks,
    ) -> FusedNetwork:
        """Compiles a network's parts; see :meth:`Fusable.fuse`."""
        # Tensors made in inference mode could not be used outside of it.
        with torch.inference_mode(False), torch.no_grad():
            return cls(
                tuple(
                    cast(Encoder, cast(nn.Module, pad_inside(fold_encoder(encoder))).to(dtype))
                    for encoder in encoders
                ),
                tuple(FusedDecoder(*decoder, dtype, step) for decoder in decoders),
                tasks,
                decoders[0][1] is not None,
                dtype,
            )

    @torch.no_grad()
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

    @torch.no_grad()
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

    @torch.no_grad()
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

    @torch.no_grad()
    def decode_all(self, features: Features) -> Tensor:
        """Does every task everywhere: raw outputs (N,K,3,H,W).

        Convolutions that no request changes are computed once.
        """
        image = features.image
        size = image.shape[2], image.shape[3]
        answer = image.new_empty(len(image), self.tasks, 3, *size)
        if self.conditioned and size[0] * size[1] <= TILED_FROM:
            decoder, pyramid = self.decoders[0], features.pyramids[0]
            shared = decoder.prepare(image, pyramid)
            weights = torch.eye(self.tasks, dtype=image.dtype, device=image.device)
            for task in range(self.tasks):
                levels = dict.fromkeys(LEVELS, MixtureMap(weights[task, None], None))
                answer[:, task] = decoder(image, pyramid, levels, shared=shared)
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
        """Makes the composite of plain decoders' answers, each only where it is asked for."""
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


@dataclass(frozen=True)
class _Compiled:
    """A compiled network with what it was compiled of."""

    network: FusedNetwork
    key: list[tuple[int, int]]


class Fusable(nn.Module):
    """A network that can be compiled for inference.

    The compiled network is no part of the module: parameters, keys and the state dict stay as
    they are. It is used in eval mode where no gradients are recorded, and made anew when
    parameters or statistics have changed (which writes to their ``.data`` hide).
    """

    _fused = False
    _dtype: torch.dtype | None = None
    _step: Step = staticmethod(step_by_blocks)
    _compiled: _Compiled | None = None

    def _parts(self) -> tuple[Sequence[Encoder], Sequence[Conditioned], int]:
        """Returns encoders, decoders and the number of tasks."""
        raise NotImplementedError

    def fuse(self, dtype: torch.dtype | None = None, compile: bool = False) -> Self:
        """Makes inference as fast as that of a network without any conditioning.

        From now on, in eval mode and without gradients, norms are folded into convolutions and
        tables, one look-up per pixel is left of a palette that mixes tasks and nothing of one
        that asks for a single task. Answers are the same to 1e-4 in float32, 1e-10 in float64.
        With gradients the network works as if it had never been fused; :meth:`train` undoes it.
        Forward hooks of parts do not run.

        Args:
            dtype: Type to compute in, such as ``torch.bfloat16``; None for the parameters'.
            compile: Make the look-up one kernel by ``torch.compile``, which needs a compiler and
                some seconds at the first call.

        Returns:
            The network itself, in eval mode.
        """
        self.eval()
        self._fused, self._dtype, self._compiled = True, dtype, None
        self._step = compiled_step() if compile else step_by_blocks
        return self

    @property
    def fused(self) -> bool:
        """Whether :meth:`fuse` was called and not undone."""
        return self._fused

    def train(self, mode: bool = True) -> Self:
        """Sets training mode, which undoes :meth:`fuse`, or eval mode."""
        if mode:
            self._fused, self._compiled = False, None
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._compiled = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Uses the compiled network within, in eval mode and without gradients."""
        before, self._fused = self._fused, True
        try:
            yield
        finally:
            self._fused = before

    def compiled(self) -> FusedNetwork:
        """Returns the network compiled for inference, made when first needed.

        Raises:
            ValueError: If the network is in training mode.
        """
        key: list[tuple[int, int]] = []
        if _read_state(self, key):
            raise ValueError("the network is in training mode; call its eval() first.")
        if self._compiled is None or self._compiled.key != key:
            with torch.inference_mode(False), torch.no_grad():
                encoders, decoders, tasks = self._parts()
            dtype = self._dtype or next(self.parameters()).dtype
            network = FusedNetwork.compile(encoders, decoders, tasks, dtype, self._step)
            self._compiled = _Compiled(network, key)
        return self._compiled.network

    def _usable(self) -> FusedNetwork | None:
        """Returns the compiled network if the next call shall use it."""
        if not self._fused or self.training or torch.is_grad_enabled():
            return None
        return self.compiled()


def _read_state(module: nn.Module, key: list[tuple[int, int]]) -> bool:
    """Reads what changes whenever a parameter, a statistic or a part does.

    Every pass asks, so this walks the tree itself: ``parameters()`` and ``modules()`` take several
    times as long, a tenth of a small network's time.

    Args:
        module: The network.
        key: Where that is added.

    Returns:
        Whether a batch norm is in training mode.
    """
    for group in (module._parameters, module._buffers):
        for tensor in group.values():
            if tensor is not None:
                key.append((id(tensor), 0 if tensor.is_inference() else tensor._version))
    training = module.training and isinstance(module, nn.BatchNorm2d)
    for part in module._modules.values():
        if part is not None:
            training |= _read_state(part, key)
    return training
