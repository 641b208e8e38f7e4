"""Many palettes at once, as one tensor on the device where they are used."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ctnet.palette import Size
from ctnet.rules import Rule
from ctnet.tasks import DEFAULT_TASKS, IGNORE


def make_palettes(
    rule: Rule,
    count: int,
    size: Size,
    generator: np.random.Generator,
    tasks: Sequence[str] = DEFAULT_TASKS,
    weights: Tensor | None = None,
    labels: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Makes palettes by a rule.

    Args:
        rule: What makes them.
        count: Number of palettes N.
        size: Height and width in pixels.
        generator: Source of chance, for mosaic and random rules.
        tasks: Names of the tasks by id.
        weights: Relative frequency (N,K) of each task in mosaic and random palettes, equal where
            None; a palette whose weights are all zero asks for nothing.
        labels: Class ids (N,H,W), 255 = not labeled, for semantic rules.
        device: Where the palettes shall be; ``weights`` and ``labels`` are there.

    Returns:
        Task ids (N,H,W) int64, 255 = nothing asked.

    Raises:
        ValueError: If a semantic rule gets no labels of that shape, or the rule names a task that
            is not among ``tasks``.
    """
    if rule.task is not None:
        if rule.task not in tasks:
            raise ValueError(f"rule {rule.name} asks for {rule.task!r}, not one of {tuple(tasks)}.")
        return torch.full((count, *size), tuple(tasks).index(rule.task), device=device)
    if rule.needs_labels:
        if labels is None or labels.shape != (count, *size):
            got = None if labels is None else tuple(labels.shape)
            raise ValueError(f"rule {rule.name} needs class ids {(count, *size)}; got {got}.")
        return torch.from_numpy(rule.table(tasks)).to(device).long()[labels.long()]
    if weights is None:
        weights = torch.ones(count, len(tasks), device=device)
    asked = weights.sum(1) > 0
    shares = torch.where(asked[:, None], weights.double(), 1.0)
    cumulative = (shares / shares.sum(1, keepdim=True)).cumsum(1)
    draw = _mosaics if rule.kind == "mosaic" else _random
    palettes = draw(cumulative, size, generator).clamp(max=len(tasks) - 1)
    if bool(asked.all()):
        return palettes
    return torch.where(asked[:, None, None], palettes, IGNORE)


def _mosaics(cumulative: Tensor, size: Size, generator: np.random.Generator) -> Tensor:
    n, device = len(cumulative), cumulative.device
    ends = [generator.uniform(0.25, 0.75, n) * side for side in size]
    draws = torch.from_numpy(generator.random((n, 4))).to(device)
    ids = torch.searchsorted(cumulative, draws, right=True)
    below, right = (
        torch.arange(side, device=device) >= torch.from_numpy(end.round()).to(device)[:, None]
        for side, end in zip(size, ends, strict=True)
    )
    upper, lower = (
        torch.where(right, pair[:, 1:], pair[:, :1]) for pair in (ids[:, :2], ids[:, 2:])
    )
    return torch.where(below[:, :, None], lower[:, None], upper[:, None])


def _random(cumulative: Tensor, size: Size, generator: np.random.Generator) -> Tensor:
    n, device = len(cumulative), cumulative.device
    chance = torch.Generator(device).manual_seed(int(generator.integers(2**31)))
    shape = n, size[0] * size[1]
    draws = torch.rand(shape, generator=chance, device=device, dtype=torch.float64)
    return torch.searchsorted(cumulative, draws, right=True).view(n, *size)
