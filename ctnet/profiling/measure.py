"""Measuring time and memory of anything that torch computes."""

from __future__ import annotations

import platform
import statistics
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Run = Callable[[], object]

Name = TypeVar("Name")

VECTORS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
"""Flags of Linux for vector instructions, the fastest for networks first."""


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the bytes of all tensors that operators make.

    Attributes:
        live: Bytes alive now.
        peak: Most bytes alive at once.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        """Starts at zero; ``known`` tensors (weights, inputs) do not count."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Runs an operator and counts what it returns."""
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._watch(value.untyped_storage())
        return result

    def _watch(self, storage: Any) -> None:
        # Views and in-place results share a storage; the finalizer runs when its last tensor dies.
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def peak_bytes(run: Run, known: Iterable[Tensor] = ()) -> int:
    """Returns the most bytes of tensors alive at once in a run, beyond ``known`` ones."""
    memory = LiveBytes(known)
    with memory:
        run()
    return memory.peak


@dataclass(frozen=True)
class Timing:
    """Times of one of several runs that were timed in turn.

    Attributes:
        milliseconds: Median.
        ratio: The median as a multiple of the first run's.
        quartiles: First and third quartile over rounds of the time as a multiple of the first
            run's in that round.
    """

    milliseconds: float
    ratio: float
    quartiles: tuple[float, float]


def seconds_in_turn(runs: Mapping[Name, Run], rounds: int) -> dict[Name, list[float]]:
    """Times runs in turn, A B C A B C, after one round that does not count.

    Args:
        runs: What to run, by name.
        rounds: Rounds that count.

    Returns:
        Seconds of each round.

    Raises:
        ValueError: If there is less than one round.
    """
    if rounds < 1:
        raise ValueError(f"at least one round; got {rounds}.")
    seconds: dict[Name, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            taken = _seconds(run)
            if number:
                seconds[name].append(taken)
    return seconds


def time_in_turn(runs: Mapping[str, Run], rounds: int) -> dict[str, Timing]:
    """Times runs in turn as :func:`seconds_in_turn`; the first is the reference.

    Raises:
        ValueError: If there is less than one round.
    """
    seconds = seconds_in_turn(runs, rounds)
    first = next(iter(seconds.values()))
    found = {}
    for name, own in seconds.items():
        low, _, high = quartiles([a / b for a, b in zip(own, first, strict=True)])
        median = statistics.median(own)
        found[name] = Timing(1000 * median, median / statistics.median(first), (low, high))
    return found


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns the first quartile, the median and the third quartile of one value or more."""
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _seconds(run: Run) -> float:
    cuda: Any = torch.cuda
    wait = cuda.synchronize if cuda.is_initialized() else lambda: None
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def cpu_name() -> str:
    """Returns the processor's name; on Linux with its family, model and best vector instructions.

    Names of servers' processors alone, such as AMD EPYC, leave open which generation they are of.
    """
    info = Path("/proc/cpuinfo")
    found: dict[str, str] = {}
    for line in info.read_text("utf-8").splitlines() if info.exists() else []:
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    if "model name" not in found:
        return platform.processor() or platform.machine()
    known = found.get("flags", "").split()
    best = next((name for name in VECTORS if name in known), "")
    numbers = [f"{key} {found[key]}" for key in ("cpu family", "model") if key in found]
    return f"{found['model name']} ({', '.join([*numbers, best] if best else numbers)})"
