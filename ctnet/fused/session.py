"""One image and palettes that are edited step by step: only what an edit can reach is computed."""

from __future__ import annotations

from contextlib import AbstractContextManager
from threading import Lock
from typing import Protocol

import torch
from torch import Tensor

from ctnet.blocks.features import Features
from ctnet.fused.decoder import Memory
from ctnet.fused.network import FusedNetwork
from ctnet.fused.regions import Box
from ctnet.palette import Palette


class Editable(Protocol):
    """A network, as far as a session needs it."""

    def encode(self, image: Tensor) -> Features:
        """Computes what does not depend on the palette."""
        ...

    def padded_palette(self, features: Features, palette: Tensor | Palette) -> Tensor:
        """Checks a palette and pads it as its image is."""
        ...

    def inference(self) -> AbstractContextManager[None]:
        """Uses the fused network within."""
        ...

    def fused_network(self) -> FusedNetwork:
        """Returns the network fused for inference."""
        ...


class Session:
    """An encoded image that remembers the last palette and what the decoder made of it.

    A palette that differs from the last one in a region costs each stage of the decoder on what
    the region can reach there, at the end 62 pixels beyond the coarse cells that it touches (74
    with the decoder ``light``). Answers equal those of a full pass. Threads that share a session
    take turns.

    Args:
        model: Network in eval mode. Changes of its parameters during a session are not noticed.
        image: RGB in [0, 1] (N,3,H,W) or (3,H,W), float, any size.

    Attributes:
        model: As given.
        features: The encoded image.
        computed: Part of the padded image that the last palette computed, None where nothing.

    Raises:
        ValueError: If the network is in training mode, or the image is no image.

    Example::

        session = model.session(image)
        first = session.decode(palette)
        second = session.decode(palette.paint_box((10, 10, 90, 90), "normals"))
    """

    def __init__(self, model: Editable, image: Tensor) -> None:
        self.model = model
        self.computed: Box | None = None
        self._network = model.fused_network()
        with torch.no_grad(), model.inference():
            self.features = model.encode(image)
        self._single = image.ndim == 3
        self._lock = Lock()
        self._last: tuple[Tensor, Tensor] | None = None
        self._memory: Memory | None = None

    # What is remembered is written to later, perhaps outside of inference mode.
    @torch.inference_mode(False)
    @torch.no_grad()
    def decode(self, palette: Tensor | Palette) -> Tensor:
        """Does the requested tasks, again only where they can differ from the last answer.

        Args:
            palette: As for :meth:`ctnet.CompositeModel.decode`.

        Returns:
            The composite's raw outputs (N,3,H,W), or (3,H,W) for a single image.

        Raises:
            ValueError: If the palette has another size, an unknown id or invalid fractions.
        """
        padded = self.model.padded_palette(self.features, palette)
        with self._lock:
            return self._decoded(padded)

    def _decoded(self, padded: Tensor) -> Tensor:
        if self._last is None or self._last[0].shape != padded.shape:
            composite, self._memory = self._network.remember(self.features, padded)
            self.computed = Box(0, 0, *composite.shape[2:])
        else:
            before, composite = self._last
            composite = self._edited(before, padded, composite)
        # Palettes may be views of what the caller goes on painting on.
        self._last = padded.clone(), composite
        height, width = self.features.size
        answer = composite[..., :height, :width].clone()
        return answer[0] if self._single else answer

    def _edited(self, before: Tensor, palette: Tensor, composite: Tensor) -> Tensor:
        changed = _extent(before != palette)
        self.computed = None
        if changed is None:
            return composite
        part, box = self._network.edit(self.features, palette, changed, self._memory)
        self.computed = box
        composite[(..., *box.slices)] = part
        return composite


def _extent(mask: Tensor) -> Box | None:
    """Returns the smallest box of the last two axes that holds all true values."""
    mask = mask.flatten(0, -3).any(0)
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    if not len(rows):
        return None
    first = int(rows[0]), int(columns[0])
    return Box(*first, int(rows[-1]) + 1, int(columns[-1]) + 1)
