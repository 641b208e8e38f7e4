"""The conditioned norm of a fused network: scale, shift and leaky ReLU in place, by one look-up."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 32768
"""Elements per thread and round: few enough for its cache, enough to share out."""

Step = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""Function (cells (P,C), scale (M,C), shift (M,C), index (P,)) that changes the cells in place."""


def step_by_blocks(cells: Tensor, scale: Tensor, shift: Tensor, index: Tensor) -> None:
    """Scales, shifts and activates each cell by its row of two tables, in pure PyTorch.

    The tables' rows are looked up a block of cells at a time: they stay in the cache, and no map
    of scales as large as the features is ever in memory.

    Args:
        cells: Features (P,C), contiguous; changed in place.
        scale: Scales by row (M,C).
        shift: Shifts by row (M,C).
        index: Row of each cell (P,).
    """
    count, channels = cells.shape
    rows = count
    if cells.device.type == "cpu":
        rows = max(1, min(count, BLOCK * max(2, torch.get_num_threads()) // channels))
    scales, shifts = (table.new_empty(rows, channels) for table in (scale, shift))
    for start in range(0, count, rows):
        part, at = cells[start : start + rows], index[start : start + rows]
        if len(part) < rows:
            scales, shifts = scales[: len(part)], shifts[: len(part)]
        torch.index_select(scale, 0, at, out=scales)
        torch.index_select(shift, 0, at, out=shifts)
        torch.addcmul(shifts, part, scales, out=part)
        F.leaky_relu_(part)


def _step(cells: Tensor, scale: Tensor, shift: Tensor, index: Tensor) -> None:
    cells.copy_(F.leaky_relu(torch.addcmul(shift[index], cells, scale[index])))


def compiled_step() -> Step:
    """Returns the same as one kernel that ``torch.compile`` makes: C++ on CPUs, Triton on GPUs.

    The first call compiles, which takes seconds and needs a compiler.
    """
    return torch.compile(_step, dynamic=True)
