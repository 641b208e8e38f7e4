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

from ctnet.networks.windows import Box, Span, source_cells

TAPS = 3
"""Side of the kernels."""

BLOCK = 16
"""Fine cells of a band: few enough for narrow bands, enough for fast products."""


def split_taps(weight: Tensor) -> Tensor:
    """Rearranges a kernel (O,I,3,3) for :func:`add_convolved`: (3,I,3*O)."""
    return weight.permute(2, 1, 3, 0).reshape(TAPS, weight.shape[1], -1).contiguous()


@dataclass(frozen=True)
class _Band:
    """What one axis does for some fine cells.

    Attributes:
        fine: The fine cells, counted from the first that is wanted.
        coarse: The coarse cells that they come from, counted from the first that is there.
        weights: Weights (fine,coarse*3), a tap's next to each other.
    """

    fine: slice
    coarse: slice
    weights: Tensor


@lru_cache(maxsize=512)
def _bands(
    size: int,
    has: Span,
    wanted: Span,
    align_corners: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[_Band, ...]:
    """Builds the bands of one axis of ``size`` coarse cells."""
    bands = []
    for start in range(*wanted, BLOCK):
        stop = min(start + BLOCK, wanted[1])
        # The cells that the taps read, in the fine level; beyond its ends there are zeros.
        first, last = max(start - 1, 0), min(stop + 1, 2 * size)
        low, high, share = source_cells((first, last), size, align_corners, dtype, device)
        from_, to = int(low.min()), int(high.max()) + 1
        rows = torch.arange(last - first, device=device)
        upsampled = torch.zeros(last - first, to - from_, dtype=dtype, device=device)
        upsampled.index_put_((rows, low - from_), 1 - share, accumulate=True)
        upsampled.index_put_((rows, high - from_), share, accumulate=True)
        weights = torch.zeros(stop - start, to - from_, TAPS, dtype=dtype, device=device)
        for tap in range(TAPS):
            reads = slice(max(start + tap - 1, first), min(stop + tap - 1, last))
            own = slice(reads.start - tap + 1 - start, reads.stop - tap + 1 - start)
            weights[own, :, tap] = upsampled[reads.start - first : reads.stop - first]
        bands.append(
            _Band(
                slice(start - wanted[0], stop - wanted[0]),
                slice(TAPS * (from_ - has[0]), TAPS * (to - has[0])),
                weights.flatten(1),
            )
        )
    return tuple(bands)


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
    n, inputs, height, width = x.shape
    outputs, fine_width = y.shape[1], y.shape[3]
    rows, columns = (
        _bands(cells, part, fine, align_corners, x.dtype, x.device)
        for cells, part, fine in zip(size, has.spans, wanted.spans, strict=True)
    )
    cells = x.permute(0, 2, 3, 1).reshape(-1, inputs)
    # Buffers are written to again and again: fresh memory costs more than the sums.
    products = x.new_empty(len(cells), TAPS * outputs)
    strips = products.view(n * height, width * TAPS, outputs)
    wide = x.new_empty(n * height, TAPS, fine_width, outputs)
    for tap in range(TAPS):
        torch.mm(cells, taps[tap], out=products)
        for band in columns:
            torch.matmul(band.weights, strips[:, band.coarse], out=wide[:, tap, band.fine])
    wide = wide.view(n, height * TAPS, fine_width * outputs)
    answer = y.permute(0, 2, 3, 1).view(n, -1, fine_width * outputs)
    for band in rows:
        weights = band.weights.expand(n, -1, -1)
        answer[:, band.fine].baddbmm_(weights, wide[:, band.coarse])
