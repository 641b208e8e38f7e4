"""Mixin for fast inference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from ctnet.fused.network import FusedNetwork, Parts
from ctnet.fused.precision import inference_dtype
from ctnet.fused.scale_shift import compiled_step, step_by_blocks

_INFERRING: ContextVar[tuple[int, ...]] = ContextVar("_INFERRING", default=())
"""Networks that this thread runs fused at the moment, by identity."""


_Key = list[tuple[int, int, int]]
"""Identity, version and place of each parameter and buffer."""


@dataclass(frozen=True)
class _Fused:
    """A fused network, and the state that it was made from."""

    network: FusedNetwork
    dtype: torch.dtype
    key: _Key
    sums: Tensor


class FuseMixin(nn.Module):
    """Adds ``fuse`` to a network.

    The fused network is no part of the module: parameters, keys and the state dict stay as
    they are. It is used in eval mode where no gradients are recorded, and made again when
    parameters or statistics have changed. In-place writes to their ``.data``, which torch hides,
    are noticed by :meth:`inference` alone.
    """

    _fused = False
    _dtype: torch.dtype | None = None
    _compile = False
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
        self._compile = compile
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

    def __getstate__(self) -> dict[str, Any]:
        # What can be made again is neither copied nor stored.
        return self.__dict__ | {"_network": None}

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Uses the fused network within, in this thread, without gradients and as in eval mode.

        Unless :meth:`fuse` chose, it computes in bfloat16 where the device has instructions for it
        (:mod:`ctnet.fused.precision`).

        No flag of the network changes, so that other threads may run it as they like.
        """
        fused = self._network
        if fused is not None and not torch.equal(fused.sums, _sums(self)):
            self._network = None
        token = _INFERRING.set((*_INFERRING.get(), id(self)))
        try:
            yield
        finally:
            _INFERRING.reset(token)

    def fused_network(self) -> FusedNetwork:
        """Returns the network fused for inference, made when first needed.

        Raises:
            ValueError: If the network is in training mode, outside of :meth:`inference`.
        """
        key: _Key = []
        if _read_state(self, key) and id(self) not in _INFERRING.get():
            raise ValueError("the network is in training mode; call its eval() first.")
        fused, dtype = self._network, self._inference_dtype()
        if fused is None or fused.key != key or fused.dtype != dtype:
            with torch.inference_mode(False), torch.no_grad():
                parts, sums = self.parts(), _sums(self)
            step = compiled_step() if self._compile else step_by_blocks
            fused = self._network = _Fused(FusedNetwork.of(parts, dtype, step), dtype, key, sums)
        return fused.network

    def _inference_dtype(self) -> torch.dtype:
        first = next(self.parameters())
        if self._fused:
            return self._dtype or first.dtype
        return inference_dtype(first.device, first.dtype)

    def fused_if_used(self) -> FusedNetwork | None:
        """Returns the fused network where the next call uses it, else None."""
        if torch.is_grad_enabled():
            return None
        used = id(self) in _INFERRING.get() or (self._fused and not self.training)
        return self.fused_network() if used else None


@torch.no_grad()
def _sums(module: nn.Module) -> Tensor:
    """Sums every parameter and buffer: a value written past torch's counters changes one."""
    tensors = [*module.parameters(), *module.buffers()]
    return torch.stack([x.detach().sum(dtype=torch.float32) for x in tensors])


def _read_state(module: nn.Module, key: _Key) -> bool:
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
                version = 0 if tensor.is_inference() else tensor._version
                key.append((id(tensor), version, tensor.data_ptr()))
    training = module.training and isinstance(module, nn.BatchNorm2d)
    for part in module._modules.values():
        if part is not None:
            training |= _read_state(part, key)
    return training
