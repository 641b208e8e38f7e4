"""Conditioning: task codes to embeddings, a palette to mixtures, mixtures to affine parameters.

Gamma and beta of eq. 1 depend only on the mixture of tasks in a cell, so they are computed once
for every distinct mixture and looked up per pixel. At stride 1 a cell holds one task; at stride s
it holds the mean of the embeddings of its s x s pixels (the 2 x 2 means per level of the paper's
code). Pixels that request nothing (255) take no part in that mean; a cell without any request has
the zero embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctnet.tasks import IGNORE

CODE_BLOCK = 20
"""Ones in a task's code: its length is this times the number of codes it was made for."""

AFFINE_SPREAD = 0.3
"""How far gammas and betas of different tasks lie apart at the start of training."""

FEW_KEYS = 2**16
"""Distinct ones of keys below this are found by a table, without sorting."""

ONE_HOT_ROWS = 32
"""Up to so many distinct mixtures, gradients of a table are one matrix product."""


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


def _sum_by_row(values: Tensor, index: Tensor | None, rows: int) -> Tensor:
    """Sums values (P,C) over the cells that share a row of a table: (rows,C)."""
    if index is None:
        return values.sum(0, keepdim=True)
    if rows <= ONE_HOT_ROWS:
        return (torch.arange(rows, device=index.device)[:, None] == index).to(values.dtype) @ values
    return values.new_zeros(rows, values.shape[1]).index_add_(0, index, values)


def _at_cells(table: Tensor, index: Tensor | None) -> Tensor:
    """Looks up the row of each cell: (P,C), or (1,C) where all cells share the only row."""
    return table if index is None else table.index_select(0, index)


@dataclass(frozen=True)
class BatchStatistics:
    """Statistics of the channels of a batch, or of the parts of it that several processes have.

    Attributes:
        mean: Mean of each channel (C,).
        rstd: 1/std of each channel (C,).
        count: Number of cells that they are of.
        total: Sums a tensor over the processes; None where there is only one.
    """

    mean: Tensor
    rstd: Tensor
    count: int | Tensor
    total: Callable[[Tensor], Tensor] | None = None


@torch.no_grad()
def batch_statistics(
    x: Tensor, norm: nn.BatchNorm2d, total: Callable[[Tensor], Tensor] | None = None
) -> BatchStatistics:
    """Computes the statistics of a batch and updates the running ones.

    Args:
        x: Features (N,C,h,w); with several processes N may be 0.
        norm: Norm that keeps the running statistics.
        total: Sums a tensor over the processes that share the batch.
    """
    state: Any = norm
    count, channels = x.numel() // x.shape[1], x.shape[1]
    if total is None:
        mean, var = torch.batch_norm_update_stats(
            x, state.running_mean, state.running_var, state.momentum
        )
        state.num_batches_tracked += 1
        return BatchStatistics(mean, (var + state.eps).rsqrt(), count)
    sums = x.new_zeros(2 * channels + 1, dtype=torch.float64)
    if count:
        mean, var = (v.double() for v in torch.batch_norm_update_stats(x, None, None, 0.0))
        sums = torch.cat([mean, var + mean.square(), mean.new_ones(1)]) * count
    sums = total(sums)
    everywhere = sums[-1]
    mean, square = (sums[:-1] / everywhere).view(2, channels)
    var = (square - mean.square()).clamp(min=0)
    unbiased = var * everywhere / (everywhere - 1).clamp(min=1)
    for running, value in ((state.running_mean, mean), (state.running_var, unbiased)):
        running.lerp_(value.to(running.dtype), state.momentum)
    state.num_batches_tracked += 1
    dtype = state.running_mean.dtype
    return BatchStatistics(
        mean.to(dtype), (var + state.eps).rsqrt().to(dtype), everywhere.to(dtype), total
    )


class _ConditionedBatchNorm(torch.autograd.Function):
    """Eq. 1 with batch statistics, as one scale and one shift per cell.

    The gradient needs no more than two sums per row of the table: the statistics' own part of it
    follows from those.
    """

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        x: Tensor,
        gamma: Tensor,
        beta: Tensor,
        index: Tensor | None,
        statistics: BatchStatistics,
    ) -> Tensor:
        mean, rstd = statistics.mean, statistics.rstd
        ctx.save_for_backward(x, gamma, index, mean, rstd)
        ctx.count, ctx.total = statistics.count, statistics.total
        scale = gamma * rstd
        return torch.addcmul(_at_cells(beta - mean * scale, index), x, _at_cells(scale, index))

    @staticmethod
    def backward(  # type: ignore[no-untyped-def]
        ctx, grad: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        x, gamma, index, mean, rstd = ctx.saved_tensors
        grad_beta = _sum_by_row(grad, index, len(gamma))
        grad_gamma = (_sum_by_row(grad * x, index, len(gamma)) - mean * grad_beta) * rstd
        sums = torch.stack([(gamma * grad_gamma).sum(0) * rstd, (gamma * grad_beta).sum(0)])
        if ctx.total is not None:
            sums = ctx.total(sums)
        slope, offset = sums * rstd / ctx.count
        grad_x = grad * _at_cells(gamma * rstd, index)
        grad_x -= offset - slope * mean
        return grad_x.addcmul_(x, slope, value=-1), grad_gamma, grad_beta, None, None


def batch_norm(
    x: Tensor, gamma: Tensor, beta: Tensor, index: Tensor | None, statistics: BatchStatistics
) -> Tensor:
    """Normalises by batch statistics, whose gradient is taken into account.

    Args:
        x: Features (N,C,h,w).
        gamma: Scales (M,C).
        beta: Shifts (M,C).
        index: Row of gamma and beta for each cell (N,h,w), None where all take the only one.
        statistics: Those of ``x``.
    """
    n, channels, height, width = x.shape
    cells = x.permute(0, 2, 3, 1).reshape(-1, channels)
    rows = None if index is None else index.flatten()
    normalized: Tensor = _ConditionedBatchNorm.apply(cells, gamma, beta, rows, statistics)
    return normalized.view(n, height, width, channels).permute(0, 3, 1, 2)


def _keep_scale(linear: nn.Linear, slope: float) -> None:
    """Draws weights so that outputs after a leaky ReLU are as large as inputs (He et al. 2015).

    PyTorch's own start shrinks them layer by layer: after the paper's six layers the embeddings of
    all tasks agree to 1 % and gammas to 1e-4, so that training begins without any conditioning.
    """
    nn.init.kaiming_normal_(linear.weight, a=slope, nonlinearity="leaky_relu")
    nn.init.zeros_(linear.bias)


def task_codes(tasks: int, length: int) -> Tensor:
    """Builds the unit codes z_k (tasks, length): blocks of ``CODE_BLOCK`` equal entries.

    Raises:
        ValueError: If the length does not hold a block for every task.
    """
    if length < tasks * CODE_BLOCK:
        raise ValueError(
            f"{tasks} tasks need codes of at least {tasks * CODE_BLOCK} entries, got {length}."
        )
    codes = torch.zeros(tasks, length)
    for task in range(tasks):
        codes[task, task * CODE_BLOCK : (task + 1) * CODE_BLOCK] = CODE_BLOCK**-0.5
    return codes


class TaskRepresentation(nn.Module):
    """Maps the fixed code of every task to its embedding (section 3, task representation block).

    Args:
        tasks: Number of tasks K.
        code_length: Length of the codes, 100 in the paper.
        width: Length E of the embeddings, 128 in the paper.
        layers: Number of fully connected layers, 6 in the paper.
        added: How many of the tasks, the last ones, came to a trained network: their embeddings
            are parameters of their own, which no other task shares.
    """

    def __init__(
        self,
        tasks: int,
        code_length: int = 100,
        width: int = 128,
        layers: int = 6,
        added: int = 0,
    ) -> None:
        super().__init__()
        self.codes: Tensor
        self.register_buffer("codes", task_codes(tasks - added, code_length))
        mapping: list[nn.Module] = []
        for layer in range(layers):
            linear = nn.Linear(width if layer else code_length, width)
            _keep_scale(linear, slope=0.2)
            mapping += [linear, nn.LeakyReLU(0.2)]
        # Codes have unit length, not entries of unit size: this gives embeddings entries near 1.
        nn.init.normal_(mapping[0].weight, std=2**0.5)  # type: ignore[arg-type]
        self.mapping = nn.Sequential(*mapping)
        self.added = nn.Parameter(torch.zeros(added, width)) if added else None

    def forward(self) -> Tensor:
        """Returns the embeddings (K,E)."""
        embeddings = cast(Tensor, self.mapping(self.codes))
        return embeddings if self.added is None else torch.cat([embeddings, self.added])


class ConditionedNorm(nn.Module):
    """Batch norm whose scale and shift are chosen by the request at each pixel (eq. 1).

    Args:
        channels: Channels C of the normalised features.
        embedding: Length E of task embeddings.
        hidden: Width of the layer that gamma and beta share.

    Attributes:
        total: Sums a tensor over the processes that share a batch in training, if there are any.
    """

    def __init__(self, channels: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.total: Callable[[Tensor], Tensor] | None = None
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.shared = nn.Linear(embedding, hidden)
        self.gamma = nn.Linear(hidden, channels)
        self.beta = nn.Linear(hidden, channels)
        _keep_scale(self.shared, slope=0.01)
        for linear, start in ((self.gamma, 1.0), (self.beta, 0.0)):
            nn.init.normal_(linear.weight, std=AFFINE_SPREAD * hidden**-0.5)
            nn.init.constant_(linear.bias, start)

    def table(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Computes gamma and beta, (M,C) each, of embeddings (M,E)."""
        hidden = F.leaky_relu(self.shared(embeddings))
        return self.gamma(hidden), self.beta(hidden)

    def forward(self, x: Tensor, mixtures: MixtureMap, embeddings: Tensor) -> Tensor:
        """Normalises ``x`` (N,C,h,w) and applies the parameters of each cell's mixture."""
        gamma, beta = self.table(mixtures.weights @ embeddings)
        norm: Any = self.norm
        if norm.training:
            statistics = batch_statistics(x, norm, self.total)
            return batch_norm(x, gamma, beta, mixtures.index, statistics)
        n, channels, height, width = x.shape
        index = None if mixtures.index is None else mixtures.index.flatten()
        cells = x.permute(0, 2, 3, 1).reshape(-1, channels)
        scale = gamma * (norm.running_var + norm.eps).rsqrt()
        shift = beta - norm.running_mean * scale
        cells = torch.addcmul(_at_cells(shift, index), cells, _at_cells(scale, index))
        return cells.view(n, height, width, channels).permute(0, 3, 1, 2)
