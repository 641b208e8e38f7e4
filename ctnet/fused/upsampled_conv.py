"""Convolving upsampled features at the resolution that they had before: a quarter of the work.

A kernel's tap acts on channels, bilinear upsampling on space, so they commute: the sum over taps k
of W_k up(x) shifted by k is the sum of up(W_k x) shifted by k. The products W_k x are taken at the
coarse level, which has a quarter of the cells. What is left, upsampling and shifting the products
and summing them, is linear along each axis and the same for all channels: two products with narrow
bands of a matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ctnet.fused.regions import Box, Span, source_cells

TAPS = 3
"""Side of the kernels."""

COLUMNS = 16
"""Columns of a band: few enough for narrow bands, enough for fast matrix products."""

ROWS = 16
"""Coarse rows at a time: few enough that intermediate results stay in the cache."""


def split_taps(weight: Tensor) -> Tensor:
    """Rearranges a kernel (O,I,3,3) for :func:`add_convolved`: (3,I,3*O)."""
    return weight.permute(2, 1, 3, 0).reshape(TAPS, weight.shape[1], -1).contiguous()


@dataclass(frozen=True)
class _Band:
    """Some fine cells of an axis and the coarse cells that they come from, or some that do.

    Attributes:
        fine: The fine cells, counted from the first that is wanted.
        coarse: The coarse cells, counted from the first that is there.
        weights: Weights (fine,coarse*3), a cell's three taps next to each other.
    """

    fine: slice
    coarse: slice
    weights: Tensor

    @property
    def taps(self) -> slice:
        """The taps of the coarse cells."""
        return slice(TAPS * self.coarse.start, TAPS * self.coarse.stop)


@lru_cache(maxsize=512)
def _bands(
    size: int,
    has: Span,
    wanted: Span,
    align_corners: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[tuple[_Band, ...], tuple[_Band, ...]]:
    """Builds the bands of one axis of ``size`` coarse cells: of fine cells, and of coarse cells."""
    # The cells that the taps read, in the fine level; beyond its ends there are zeros.
    first, last = max(wanted[0] - 1, 0), min(wanted[1] + 1, 2 * size)
    low, high, share = source_cells((first, last), size, align_corners, dtype, device)
    cells = torch.arange(last - first, device=device)
    upsampled = torch.zeros(last - first, has[1] - has[0], dtype=dtype, device=device)
    upsampled.index_put_((cells, low - has[0]), 1 - share, accumulate=True)
    upsampled.index_put_((cells, high - has[0]), share, accumulate=True)
    weights = torch.zeros(wanted[1] - wanted[0], has[1] - has[0], TAPS, dtype=dtype, device=device)
    for tap in range(TAPS):
        reads = slice(max(wanted[0] + tap - 1, first), min(wanted[1] + tap - 1, last))
        own = slice(reads.start - tap + 1 - wanted[0], reads.stop - tap + 1 - wanted[0])
        weights[own, :, tap] = upsampled[reads.start - first : reads.stop - first]
    used = weights.ne(0).any(2)

    def band(fine: slice, coarse: slice) -> _Band:
        return _Band(fine, coarse, weights[fine, coarse].flatten(1))

    by_fine = (slice(i, i + COLUMNS) for i in range(0, len(used), COLUMNS))
    by_coarse = (slice(i, i + ROWS) for i in range(0, used.shape[1], ROWS))
    return (
        tuple(band(fine, _extent(used[fine].any(0))) for fine in by_fine),
        tuple(band(_extent(used[:, coarse].any(1)), coarse) for coarse in by_coarse),
    )


def _extent(used: Tensor) -> slice:
    """Returns the cells from the first to the last that is used."""
    cells = used.nonzero()
    return slice(int(cells.min()), int(cells.max()) + 1) if len(cells) else slice(0, 0)


def add_convolved(
    y: Tensor,
    x: Tensor,
    taps: Tensor,
    has: Box,
    wanted: Box,
    size: tuple[int, int],
    align_corners: bool,
) -> None:
    """Adds a part of a level, upsampled bilinearly and convolved, zeros where the fine level ends.

    Args:
        y: What to add to (N,O,*wanted.size), channels last; changed in place.
        x: Features (N,I,*has.size).
        taps: What :func:`split_taps` made of the kernel (O,I,3,3).
        has: Where the features are in their level; holds what the upsampled cells come from.
        wanted: Which part of the level twice as fine ``y`` is.
        size: Height and width of the whole level of ``x``.
        align_corners: As in :func:`torch.nn.functional.interpolate`.
    """
    inputs, width = x.shape[1], x.shape[3]
    outputs, fine_width = y.shape[1], y.shape[3]
    (_, rows), (columns, _) = (
        _bands(cells, part, fine, align_corners, x.dtype, x.device)
        for cells, part, fine in zip(size, has.spans, wanted.spans, strict=True)
    )
    for features, answer in zip(x, y.permute(0, 2, 3, 1), strict=True):
        for part in rows:
            # Columns outermost: a band of them is then one product of two matrices, not one a row.
            cells = features[:, part.coarse].permute(2, 1, 0).reshape(-1, inputs)
            height = len(cells) // width
            products = x.new_empty(len(cells), TAPS * outputs)
            strips = x.new_empty(width, TAPS, height, outputs)
            upright = x.new_empty(fine_width, height * outputs)
            wide = x.new_empty(height, TAPS, fine_width, outputs)
            for tap in range(TAPS):
                torch.mm(cells, taps[tap], out=products)
                strips.copy_(products.view(width, height, TAPS, outputs).transpose(1, 2))
                for band in columns:
                    coarse = strips.view(width * TAPS, -1)[band.taps]
                    torch.mm(band.weights, coarse, out=upright[band.fine])
                wide[:, tap] = upright.view(fine_width, height, outputs).transpose(0, 1)
            sums = answer[part.fine].view(-1, fine_width * outputs)
            sums.addmm_(part.weights, wide.view(height * TAPS, -1))
