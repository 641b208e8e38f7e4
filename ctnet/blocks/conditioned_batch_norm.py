r"""Batch norm whose scale and shift depend on the task that a pixel requests (section 3).

For feature h of channel c at pixel (y, x) of image n, and the task t_yx requested there:

- eq. 1: h'_ncyx = gamma_c(t_yx) * (h_ncyx - mu_c) / sigma_c + beta_c(t_yx),
- eq. 2: mu_c = mean of h_ncyx over n, y and x,
- eq. 3: sigma_c = sqrt(mean of h_ncyx^2 over n, y and x - mu_c^2), plus the usual epsilon.

At eval mu and sigma are the running statistics. Gamma and beta come from the task's embedding by a
small network; at coarse strides, from the mean embedding of a cell. They depend on the mixture of
tasks in a cell alone, so they are computed once for each distinct mixture, as a table, and looked
up at each cell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctnet.blocks.initialization import keep_scale
from ctnet.blocks.palette_pyramid import MixtureMap

AFFINE_SPREAD = 0.3
"""How far gammas and betas of different tasks lie apart at the start of training."""


ONE_HOT_ROWS = 32
"""Largest number of distinct mixtures for which the gradient of a table is one matrix product."""


def _sum_by_row(values: Tensor, index: Tensor | None, rows: int) -> Tensor:
    """Sums values (P,C) over the cells that share a row of a table: (rows,C), float32 or finer."""
    # 16-bit sums stand still as soon as they are some hundred times what is added.
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    if index is None:
        return values.sum(0, keepdim=True)
    if rows <= ONE_HOT_ROWS:
        return (torch.arange(rows, device=index.device)[:, None] == index).to(values.dtype) @ values
    return values.new_zeros(rows, values.shape[1]).index_add_(0, index, values)


def _at_cells(table: Tensor, index: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Looks up the row of each cell: (P,C), or (1,C) where all cells share the only row.

    The result has the type of the features, so that half the bytes move where they are 16-bit.
    """
    table = table.to(dtype)
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
    """Normalization by batch statistics, as one scale and one shift per cell.

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
        shift = beta - mean * scale
        return torch.addcmul(_at_cells(shift, index, x.dtype), x, _at_cells(scale, index, x.dtype))

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
        grad_x = grad * _at_cells(gamma * rstd, index, grad.dtype)
        grad_x -= (offset - slope * mean).to(grad.dtype)
        grad_x.addcmul_(x, slope.to(grad.dtype), value=-1)
        return grad_x, grad_gamma.to(gamma.dtype), grad_beta.to(gamma.dtype), None, None


def batch_norm(
    x: Tensor, gamma: Tensor, beta: Tensor, index: Tensor | None, statistics: BatchStatistics
) -> Tensor:
    """Normalizes by batch statistics, through which gradients flow.

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


class ConditionedBatchNorm(nn.Module):
    """Batch norm with gamma and beta by the request at each pixel; see the module's docstring.

    Args:
        channels: Channels C of the normalized features.
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
        keep_scale(self.shared, slope=0.01)
        for linear, start in ((self.gamma, 1.0), (self.beta, 0.0)):
            nn.init.normal_(linear.weight, std=AFFINE_SPREAD * hidden**-0.5)
            nn.init.constant_(linear.bias, start)

    def table(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Computes gamma and beta, (M,C) each, of embeddings (M,E)."""
        hidden = self.hidden(embeddings)
        return self.gamma(hidden), self.beta(hidden)

    def hidden(self, embeddings: Tensor) -> Tensor:
        """Computes what gamma and beta are read from, (M,H), of embeddings (M,E)."""
        return F.leaky_relu(self.shared(embeddings))

    def forward(self, x: Tensor, mixtures: MixtureMap, embeddings: Tensor) -> Tensor:
        """Normalizes ``x`` (N,C,h,w) and applies the parameters of each cell's mixture."""
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
        scale, shift = (_at_cells(table, index, x.dtype) for table in (scale, shift))
        cells = torch.addcmul(shift, cells, scale)
        return cells.view(n, height, width, channels).permute(0, 3, 1, 2)
