"""The mixin that makes a network's inference fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from ctnet.fused.network import FusedNetwork, Parts
from ctnet.fused.scale_shift import Step, compiled_step, step_by_blocks


@dataclass(frozen=True)
class _Fused:
    """A fused network, and the state that it was made from."""

    network: FusedNetwork
    key: list[tuple[int, int]]


class FuseMixin(nn.Module):
    """Adds ``fuse`` to a network.

    The fused network is no part of the module: parameters, keys and the state dict stay as
    they are. It is used in eval mode where no gradients are recorded, and made again when
    parameters or statistics have changed (which writes to their ``.data`` hide).
    """

    _fused = False
    _dtype: torch.dtype | None = None
    _step: Step = staticmethod(step_by_blocks)
    _network: _Fused | None = None

    def parts(self) -> Parts:
        """Returns what the network is made of."""
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
        self._fused, self._dtype, self._network = True, dtype, None
        self._step = compiled_step() if compile else step_by_blocks
        return self

    @property
    def fused(self) -> bool:
        """Whether :meth:`fuse` was called and not undone."""
        return self._fused

    def train(self, mode: bool = True) -> Self:
        """Sets training mode, which undoes :meth:`fuse`, or eval mode."""
        if mode:
            self._fused, self._network = False, None
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._network = None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Uses the fused network within, in eval mode and without gradients."""
        before, self._fused = self._fused, True
        try:
            yield
        finally:
            self._fused = before

    def fused_network(self) -> FusedNetwork:
        """Returns the network fused for inference, made when first needed.

        Raises:
            ValueError: If the network is in training mode.
        """
        key: list[tuple[int, int]] = []
        if _read_state(self, key):
            raise ValueError("the network is in training mode; call its eval() first.")
        if self._network is None or self._network.key != key:
            with torch.inference_mode(False), torch.no_grad():
                parts = self.parts()
            dtype = self._dtype or next(self.parameters()).dtype
            self._network = _Fused(FusedNetwork.of(parts, dtype, self._step), key)
        return self._network.network

    def fused_if_used(self) -> FusedNetwork | None:
        """Returns the fused network where the next call uses it, else None."""
        if not self._fused or self.training or torch.is_grad_enabled():
            return None
        return self.fused_network()


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
