"""Between the working size of a network and an image's own size, task by task.

Palettes go down by nearest sampling, labels come up by interpolation among the working cells of
their own task alone: no value of a neighboring task bleeds over the border of a region.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ctnet.labels import NO_READERS, Readers, task_values
from ctnet.palette import Palette, Size
from ctnet.tasks import IGNORE, TaskSpec

FILL_WEIGHT = 1e-6
"""Weight of a working cell that is filled from other cells of its task, against 1 of a true one:
it counts only where no true cell is in reach."""

REACH = 1e-3
"""Share of a pixel's bilinear kernel that must lie on cells of its task for them to be in reach."""

CHUNK = 1 << 16
"""Number of pixels to interpolate at a time, which limits the memory for class probabilities."""

ROUNDING = 1e-3
"""Relative error that probabilities may have."""


def working_palette(palette: Palette, size: Size) -> Palette:
    """Samples a palette at a smaller size so that every requested task keeps at least one cell.

    Args:
        palette: A palette of the image's size.
        size: Working height and width; at least as many cells as tasks.
    """
    ids = palette.resize(size).ids.copy()
    for task in palette.requested():
        task_id = palette.task_id(task)
        if (ids == task_id).any():
            continue
        # The task takes the cell nearest to the middle one of its pixels, among the cells that
        # are not the last of another task.
        pixels = np.argwhere(palette.mask(task))
        target = (pixels[len(pixels) // 2] + 0.5) * size / palette.size - 0.5
        spare = np.argwhere((ids == IGNORE) | (np.bincount(ids.ravel(), minlength=256)[ids] > 1))
        row, column = spare[np.square(spare - target).sum(1).argmin()]
        ids[row, column] = task_id
    return Palette(ids, palette.tasks)


def enlarge(
    pixels: Tensor,
    cells: Tensor,
    wanted: npt.NDArray[np.bool_],
    task: TaskSpec,
    readers: Readers = NO_READERS,
) -> npt.NDArray[Any]:
    """Interpolates a task's values from its working cells to the pixels that ask for it.

    Args:
        pixels: Raw outputs (h,w,3) at the working size.
        cells: Where (h,w) the network did the task.
        wanted: Where (H,W) the image asks for it.
        task: The task.
        readers: The network's readers, ``model.readers``.

    Returns:
        Class ids (H,W) uint8, probabilities (H,W) float32 or unit normals (H,W,3) float32; 255, 0
        and 0 where not asked. Where no cell of the task is in reach of the bilinear kernel, the
        nearest coarser level that has one gives the value.
    """
    values = task_values(pixels[cells], task, readers)
    if task.kind == "classes":
        return _enlarge_classes(values, cells, wanted)
    full = np.zeros((*wanted.shape, 3) if task.kind == "normals" else wanted.shape, np.float32)
    for rows, found in _interpolated(_spread(values, cells, wanted), wanted):
        full[rows][wanted[rows]] = _decide(found, task).cpu().numpy()
    return full


def _enlarge_classes(
    values: Tensor, cells: Tensor, wanted: npt.NDArray[np.bool_]
) -> npt.NDArray[np.uint8]:
    """Takes the likeliest class of the interpolated probabilities.

    A class that is the likeliest in all four cells around a pixel is so in any mean of them, so
    probabilities are interpolated along the borders of classes alone.

    Args:
        values: Probabilities (P,C) of the cells that did the task.
        cells: Where (h,w) those are.
        wanted: Where (H,W) the image asks for the task.
    """
    # A mean of probabilities has one of at least 1/C, so none that is below that everywhere wins.
    likely = (values.amax(0) >= (1 - ROUNDING) / values.shape[1]).nonzero()[:, 0]
    spread = _spread(values[:, likely], cells, wanted)
    best = likely[_first_largest(spread[:-1].flatten(1))].to(torch.uint8).view(cells.shape)
    best[spread[-1] == 0] = IGNORE
    four = _of_four(best.cpu().numpy())
    agreed = np.where((four == four[0]).all(0), four[0], np.uint8(IGNORE))
    full = _at_pixels(agreed, wanted.shape)
    border = wanted & (full == IGNORE)
    full[~wanted] = IGNORE
    for rows, found in _interpolated(spread, border):
        full[rows][border[rows]] = likely[_first_largest(found)].cpu().numpy()
    return full


def enlarge_probabilities(
    pixels: Tensor,
    cells: Tensor,
    wanted: npt.NDArray[np.bool_],
    task: TaskSpec,
    readers: Readers = NO_READERS,
) -> npt.NDArray[np.float32]:
    """Interpolates a task's class probabilities; :func:`enlarge` takes the largest of them.

    Args:
        pixels: Raw outputs (h,w,3) at the working size.
        cells: Where (h,w) the network did the task.
        wanted: Where (H,W) the image asks for it.
        task: The task, of kind ``classes``.
        readers: The network's readers, ``model.readers``.

    Returns:
        Probabilities (H,W,C) float32, 0 where not asked.
    """
    full = np.zeros((*wanted.shape, len(task.classes)), np.float32)
    values = task_values(pixels[cells], task, readers)
    for rows, found in _interpolated(_spread(values, cells, wanted), wanted):
        full[rows][wanted[rows]] = found.T.cpu().numpy()
    return full


def _first_largest(values: Tensor) -> Tensor:
    """Does ``values.argmax(0)`` of (C,P) for few C, several times as fast on CPUs."""
    best, place = values[0], values.new_zeros(values.shape[1], dtype=torch.int64)
    for number in range(1, len(values)):
        place.masked_fill_(values[number] > best, number)
        best = torch.maximum(best, values[number])
    return place


def _spread(values: Tensor, cells: Tensor, wanted: npt.NDArray[np.bool_]) -> Tensor:
    """Puts a task's values on the grid, with their weight as the last channel.

    Args:
        values: Values (P,C) of the cells that did the task.
        cells: Where (h,w) those are.
        wanted: Where (H,W) the image asks for it.

    Returns:
        Values times weight, and weight (C+1,h,w): 1 where a cell did the task. Elsewhere it is 0,
        or, if a pixel reaches none that did, :data:`FILL_WEIGHT` for a value from farther cells.
    """
    spread = values.new_zeros(values.shape[1] + 1, *cells.shape)
    spread[:, cells] = F.pad(values, (0, 1), value=1).T
    reach = F.interpolate(cells[None, None].float(), wanted.shape, mode="bilinear")[0, 0]
    if (wanted & (reach < REACH).cpu().numpy()).any():
        filled = F.pad(_fill(spread), (0, 0, 0, 0, 0, 1), value=1)
        spread = filled * torch.where(cells, 1.0, FILL_WEIGHT)
    return spread


def _of_four(cells: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Returns a map (h,w) and its neighbors below, on the right, and diagonally: (4,h,w)."""
    wide = np.pad(cells, ((0, 1), (0, 1)), "edge")
    return np.stack([cells, wide[1:, :-1], wide[:-1, 1:], wide[1:, 1:]])


def _at_pixels(cells: npt.NDArray[Any], size: tuple[int, ...]) -> npt.NDArray[Any]:
    """Takes a map (h,w) at the cell above and left of each pixel of an image (H,W)."""
    above, left = (
        ((_centers(pixels, count) + 1) * count / 2 - 0.5).long().numpy()
        for pixels, count in zip(size, cells.shape, strict=True)
    )
    taken: npt.NDArray[Any] = cells[above][:, left]
    return taken


def _interpolated(
    weighted: Tensor, wanted: npt.NDArray[np.bool_]
) -> Iterator[tuple[slice, Tensor]]:
    """Yields bands of rows and a task's values (C,P) at those of their pixels that ask for it.

    Args:
        weighted: Values and weight (C+1,h,w) of the cells.
        wanted: Where (H,W) the image asks for it.
    """
    height, width = wanted.shape
    ys, xs = _centers(height, weighted.shape[1]), _centers(width, weighted.shape[2])
    band = max(1, CHUNK // width)
    for top in range(0, height, band):
        rows, columns = np.nonzero(wanted[top : top + band])
        if not len(rows):
            continue
        points = torch.stack([xs[columns], ys[rows + top]], -1).to(weighted.device)
        found = F.grid_sample(weighted[None], points[None, None], align_corners=False)[0, :, 0]
        yield slice(top, top + band), found[:-1] / found[-1]


def _centers(pixels: int, cells: int) -> Tensor:
    """Centers of pixels in the coordinates of ``grid_sample``, kept inside the outermost cells'."""
    centers = (torch.arange(pixels, dtype=torch.float64) + 0.5) * 2 / pixels - 1
    return centers.clamp(-1 + 1 / cells, 1 - 1 / cells).float()


def _fill(sums: Tensor) -> Tensor:
    """Fills empty cells with the mean of the nearest coarser level that has one (pull-push).

    Args:
        sums: Weighted values and, last, their weight (C+1,h,w); 0 where there is none.

    Returns:
        Values (C,h,w), those of cells that have one unchanged.
    """
    weight = sums[-1]
    values = sums[:-1] / torch.where(weight > 0, weight, 1)
    if bool((weight > 0).all()):
        return values
    height, width = weight.shape
    means = F.avg_pool2d(F.pad(sums, (0, width % 2, 0, height % 2)), 2)
    coarse = F.interpolate(_fill(means)[None], scale_factor=2, mode="bilinear")[0]
    return torch.where(weight > 0, values, coarse[:, :height, :width])


def _decide(values: Tensor, task: TaskSpec) -> Tensor:
    """Turns interpolated values (C,P) into probabilities (P,) or normals (P,3)."""
    return values[0].clamp(0, 1) if task.kind == "probability" else F.normalize(values.T, dim=-1)
