"""The task palette T at the strides of the decoder: which tasks a cell mixes, and where.

At stride 1 a cell holds one task. At stride s its embedding is the mean of those of its s x s
pixels (the 2 x 2 means per level of the paper's code). Pixels that request nothing (255) take no
part in that mean; a cell without any request has the zero embedding. A level is stored as its
distinct mixtures and the mixture of each cell: what depends on the mixture alone is computed once
for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ctnet.tasks import IGNORE

FEW_KEYS = 2**16
"""Keys below this are made unique by a table instead of a sort."""


@dataclass(frozen=True)
class MixtureMap:
    """The mixture of tasks in every cell of one level.

    Attributes:
        weights: Distinct mixtures (M,K), rows that sum to 1 or, where nothing is asked, to 0.
        index: Row of each cell (N,h,w), or None where all cells hold the only row.
    """

    weights: Tensor
    index: Tensor | None


def _distinct(keys: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Finds the distinct ones of keys below ``top``, in order, and the place of each key."""
    if top > FEW_KEYS:
        found, index = torch.unique(keys, return_inverse=True)
        return found, index
    present = torch.zeros(top, dtype=torch.bool, device=keys.device)
    present[keys.flatten()] = True
    return present.nonzero()[:, 0], (present.long().cumsum(0) - 1).take(keys)


def _sum_cells(values: Tensor, side: int) -> Tensor:
    """Sums whole numbers (N,h,w) over cells of ``side`` x ``side``."""
    parts = [values[:, i::side, j::side] for i in range(side) for j in range(side)]
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total


def _packed_counts(
    ids: Tensor, tasks: int, strides: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields, by stride, distinct counts (M,K) of requests in a cell and the row of each cell.

    The counts of a cell are digits of one number: the cell's key, the sum of its pixels' keys.
    """
    radix = strides[-1] ** 2 + 1
    powers = torch.tensor([radix**k for k in range(tasks)] + [0], device=ids.device)
    keys, reached = None, 1
    for stride in strides:
        own = stride**2 + 1
        if keys is None and own**tasks <= FEW_KEYS:
            small = torch.tensor([own**k for k in range(tasks)] + [0], device=ids.device)
            found, index = _distinct(_sum_cells(small.take(ids), stride), own**tasks)
            rows = (found[:, None] // small[:-1]) % own
            keys = (rows * powers[:-1]).sum(1).take(index)
        else:
            keys = _sum_cells(powers.take(ids) if keys is None else keys, stride // reached)
            found, index = _distinct(keys, radix**tasks)
            rows = (found[:, None] // powers[:-1]) % radix
        reached = stride
        yield rows, index


def _counts(ids: Tensor, tasks: int, strides: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Does the same for tasks too many for one number."""
    one_hot = F.one_hot(ids, tasks + 1)[..., :tasks].permute(0, 3, 1, 2).float()
    for stride in strides:
        counts = F.avg_pool2d(one_hot, stride, divisor_override=1).permute(0, 2, 3, 1)
        rows, index = torch.unique(counts.reshape(-1, tasks).long(), dim=0, return_inverse=True)
        yield rows, index.view(counts.shape[:3])


def palette_pyramid(
    palette: Tensor, tasks: int, strides: Sequence[int], dtype: torch.dtype = torch.float32
) -> dict[int, MixtureMap]:
    """Finds the mixtures that a palette of ids makes at each level.

    Args:
        palette: Task ids (N,H,W), 0 to ``tasks`` - 1 or 255 for no request; H and W are multiples
            of every stride.
        tasks: Number of tasks K.
        strides: Strides of the levels.
        dtype: Type of the weights.

    Returns:
        The mixture map of each stride.
    """
    # One of several processes may have no image at all.
    lowest, highest = IGNORE, IGNORE
    if palette.numel():
        lowest, highest = int(palette.min()), int(palette.max())
    if lowest == highest:
        weights = torch.zeros(1, tasks, dtype=dtype, device=palette.device)
        if lowest != IGNORE:
            weights[0, lowest] = 1
        return {stride: MixtureMap(weights, None) for stride in strides}
    ids = palette.long().clamp(max=tasks)
    pyramid = {}
    if 1 in strides:
        eye = torch.eye(tasks, dtype=dtype, device=palette.device)
        pyramid[1] = MixtureMap(F.pad(eye, (0, 0, 0, 1)), ids)
    coarse = sorted(stride for stride in strides if stride > 1)
    if not coarse:
        return pyramid
    fits = (coarse[-1] ** 2 + 1) ** tasks < 2**62
    found = (_packed_counts if fits else _counts)(ids, tasks, coarse)
    for stride, (rows, index) in zip(coarse, found, strict=True):
        weights = rows.to(dtype)
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
        pyramid[stride] = MixtureMap(weights, index if len(weights) > 1 else None)
    return pyramid


def soft_pyramid(fractions: Tensor, strides: Sequence[int]) -> dict[int, MixtureMap]:
    """Finds the mixtures of a soft palette; gradients flow through the weights.

    Args:
        fractions: Share of each task at each pixel (N,K,H,W), summing to 1 over K.
        strides: Strides of the levels.

    Returns:
        The mixture map of each stride, one row a cell.
    """
    pyramid = {}
    for stride in strides:
        cells = F.avg_pool2d(fractions, stride) if stride > 1 else fractions
        n, tasks, height, width = cells.shape
        rows = torch.arange(n * height * width, device=cells.device).view(n, height, width)
        pyramid[stride] = MixtureMap(cells.permute(0, 2, 3, 1).reshape(-1, tasks), rows)
    return pyramid
