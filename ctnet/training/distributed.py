"""Data-parallel training over processes: who is who, and sums over all of them.

Each process works on its rows of the batch that one process alone would draw. Whatever a loss or a
norm divides by is summed over all processes first, so that what the processes compute sums to what
one process would compute. All processes must make the same calls in the same order: what depends
on the data is decided together, by :func:`anywhere`.

Outside :func:`joined` there is one process, and nothing here costs anything.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Value = TypeVar("Value")

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each process in its environment."""

PATIENCE = timedelta(hours=2)
"""Timeout between processes: longer than any validation, which the first process runs alone."""

_device: torch.device | None = None
"""Device of this process while it is one of several."""

_parent: int | None = None
"""The launcher process; this one ends with it."""


def launched() -> bool:
    """Returns whether torchrun, or what sets the same variables, started this process."""
    return all(name in os.environ for name in VARIABLES)


@contextmanager
def joined(device: str = "auto") -> Iterator[None]:
    """Joins the processes that torchrun started; does nothing without torchrun.

    Training loops that are made and run inside share their work: over gloo on CPUs, over NCCL on
    GPUs, of which each process takes its own.

    Args:
        device: Name of the device, as in a training configuration.

    Raises:
        ValueError: If there is no GPU for each process, or the device cannot be shared out.
        ConnectionError: If the other processes cannot be found.

    Example::

        with joined():
            Trainer(config, "runs/mine").train()
    """
    global _device, _parent
    if not launched():
        yield
        return
    chosen = _own_device(device)
    host = ":".join(os.environ[name] for name in VARIABLES[2:])
    try:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    except RuntimeError as error:
        raise ConnectionError(f"found no other processes at {host}: {error}") from error
    _device = chosen
    _parent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
    ended = False
    try:
        yield
        ended = True
    finally:
        _device = None
        # With others waiting NCCL may not come back; the end of this process tells them. Gloo's
        # threads outlive a lost connection and abort the end of this process.
        if ended or chosen.type == "cpu":
            dist.destroy_process_group()


def _own_device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(
            f"several processes train on a CPU or on a GPU each: cpu or cuda; got {name}."
        )
    if name == "cpu" or not (name == "cuda" or torch.cuda.is_available()):
        return torch.device("cpu")
    number, found = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= found:
        raise ValueError(
            f"each process needs a GPU of its own: this is number {number + 1} on a machine with "
            f"{found}. Start fewer, or train on the CPU (device cpu)."
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def rank() -> int:
    """Returns the number of this process, 0 for the first or only one."""
    return 0 if _device is None else dist.get_rank()


def world_size() -> int:
    """Returns the number of processes that train together."""
    return 1 if _device is None else dist.get_world_size()


def is_main() -> bool:
    """Returns whether this is the process that writes, validates and reports."""
    return rank() == 0


def is_shared() -> bool:
    """Returns whether several processes train together."""
    return _device is not None


def own_rows(batch_size: int) -> slice:
    """Returns the rows of a batch that are for this process.

    Raises:
        ValueError: If there are not enough for all.
    """
    world, number = world_size(), rank()
    if batch_size < world:
        raise ValueError(f"a batch of {batch_size} cannot be shared by {world} processes.")
    return slice(batch_size * number // world, batch_size * (number + 1) // world)


def own_workers(workers: int) -> int:
    """Shares out processes that load data among those that train on this machine."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if is_shared() else 1
    return -(-workers // here)


def _together(call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Runs what all processes take part in."""
    if _parent is not None and _parent != os.getppid():
        # A second run in the same folder must not meet this one.
        raise ConnectionError(
            "what started this process has ended; start the same command again to go on from the "
            "last checkpoint."
        )
    try:
        call(*arguments, **options)
    except RuntimeError as error:
        raise ConnectionError(
            "another process of this run has stopped, or cannot be reached; start the same "
            f"command again to go on from the last checkpoint. ({str(error).splitlines()[0]})"
        ) from error


@torch.no_grad()
def sum_of_all(x: Tensor) -> Tensor:
    """Sums a tensor over all processes; no gradient flows."""
    if not is_shared():
        return x.detach()
    x = x.detach().clone(memory_format=torch.contiguous_format)
    _together(dist.all_reduce, x)
    return x


def rows_before(x: Tensor) -> Tensor:
    """Returns, for each row of a batch, the row before it; the first has the last one's.

    Args:
        x: Rows of this process (n,...), at least one; those of all processes are the batch.
    """
    if not is_shared():
        return x.roll(1, 0)
    own = x[-1].contiguous()
    last = [torch.empty_like(own) for _ in range(world_size())]
    _together(dist.all_gather, last, own)
    return torch.cat([last[rank() - 1][None], x[:-1]])


def anywhere(masks: Sequence[Tensor]) -> list[bool]:
    """Returns for each mask whether it is true anywhere, in any process."""
    if not masks:
        return []
    return [found > 0 for found in sum_of_all(torch.stack([m.any() for m in masks]).int()).tolist()]


def mean_of_all(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Averages over the values of all processes: the part of this one, as the parts are summed.

    Args:
        values: Any shape; a process may have none.
        weights: Weights of that shape, all 1 where None.
    """
    if weights is None:
        return values.sum() / sum_of_all(values.new_full((), values.numel()))
    return (values * weights).sum() / sum_of_all(weights.sum())


def sum_losses(losses: dict[str, float]) -> dict[str, float]:
    """Sums by name what each process has of the losses."""
    if not is_shared() or not losses:
        return losses
    sums = sum_of_all(torch.tensor(list(losses.values()), dtype=torch.float64, device=_device))
    return dict(zip(losses, sums.tolist(), strict=True))


class GradientSum:
    """Sums gradients over all processes, all in one go.

    Args:
        parameters: What learns, all of one type.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._buffer: Tensor | None = None

    @torch.no_grad()
    def __call__(self) -> None:
        """Replaces gradients by their sums; where no process has one there is none."""
        if not is_shared():
            return
        parts = [_in_memory_order(p) for p in self._parameters]
        has = torch.tensor([float(p.grad is not None) for p in self._parameters]).to(parts[0])
        self._buffer = torch.cat([has, *parts], out=self._buffer)
        _together(dist.all_reduce, self._buffer)
        sizes = [len(has), *(p.numel() for p in self._parameters)]
        found, *sums = self._buffer.split_with_sizes(sizes)
        for parameter, there, part in zip(self._parameters, found.tolist(), sums, strict=True):
            # Optimizers read both linearly, so strides agree, as autograd would have them.
            view = part.as_strided(parameter.shape, parameter.stride())
            parameter.grad = view if there else None


def _in_memory_order(parameter: nn.Parameter) -> Tensor:
    """Flattens a gradient as its parameter lies in memory; zeros where there is none."""
    if parameter.grad is None:
        return parameter.new_zeros(parameter.numel())
    strides = zip(parameter.shape, parameter.grad.stride(), parameter.stride(), strict=True)
    if any(own != other for size, own, other in strides if size > 1):
        parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
    return parameter.grad.as_strided((parameter.numel(),), (1,))


def from_main(value: Value) -> Value:
    """Returns the value that the first process has."""
    if not is_shared():
        return value
    box = [value]
    _together(dist.broadcast_object_list, box, src=0, device=_device)
    return box[0]


def open_on_main(path: Path) -> BinaryIO | None:
    """Opens a file of the first process, for all of them; None where there is none."""
    if not is_shared():
        return path.open("rb") if path.exists() else None
    content = from_main(path.read_bytes() if is_main() and path.exists() else None)
    return None if content is None else BytesIO(content)


def copy_from_main(module: nn.Module) -> None:
    """Copies parameters and buffers from the first process to all others."""
    if is_shared():
        for value in module.state_dict().values():
            sent = value.contiguous()
            _together(dist.broadcast, sent, src=0)
            value.copy_(sent)


def require_same(things: Mapping[str, object]) -> None:
    """Checks that every process has what the first one has.

    Args:
        things: What is compared, by the name that an error gives it.

    Raises:
        ValueError: If something differs.
    """
    own = {name: hashlib.sha256(repr(thing).encode()).digest() for name, thing in things.items()}
    for name, expected in from_main(own).items():
        if own[name] != expected:
            raise ValueError(f"process {rank()} has another {name} than process 0.")
