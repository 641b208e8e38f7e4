"""Parts of feature maps: what a decoder has to compute for a part of its answer.

All boxes are in cells of their level. A decoder's stage at stride s takes the stage before (stride
2s), upsampled, and a side (stride s), and convolves both 3 x 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Span = tuple[int, int]
"""First and last cell, the end excluded."""

GRAIN = 32
"""Side in pixels of a cell of the coarsest level."""


@dataclass(frozen=True)
class Box:
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of a level, ends excluded."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index a tensor with."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def spans(self) -> tuple[Span, Span]:
        """First and last row, and column, the ends excluded."""
        return (self.top, self.bottom), (self.left, self.right)

    def join(self, other: Box) -> Box:
        """Returns the smallest box that holds both."""
        return Box(
            min(self.top, other.top),
            min(self.left, other.left),
            max(self.bottom, other.bottom),
            max(self.right, other.right),
        )

    def grow(self, cells: int, size: tuple[int, int]) -> Box:
        """Adds cells on every side, within a level of that size."""
        return Box(
            max(self.top - cells, 0),
            max(self.left - cells, 0),
            min(self.bottom + cells, size[0]),
            min(self.right + cells, size[1]),
        )

    def coarser(self, factor: int) -> Box:
        """Returns the box of larger cells that hold these."""
        return Box(
            self.top // factor,
            self.left // factor,
            -(-self.bottom // factor),
            -(-self.right // factor),
        )

    def finer(self, factor: int) -> Box:
        """Returns the box of smaller cells that these hold."""
        return Box(*(factor * x for x in (self.top, self.left, self.bottom, self.right)))

    def within(self, outer: Box) -> Box:
        """Returns the same cells as counted from the corner of ``outer``."""
        return Box(
            self.top - outer.top,
            self.left - outer.left,
            self.bottom - outer.top,
            self.right - outer.left,
        )


def whole(size: tuple[int, int]) -> Box:
    """Returns the box of a whole level of that size."""
    return Box(0, 0, *size)


def _each_axis(box: Box, size: tuple[int, int], span: Callable[[int, int, int], Span]) -> Box:
    top, bottom = span(box.top, box.bottom, size[0])
    left, right = span(box.left, box.right, size[1])
    return Box(top, left, bottom, right)


def _ratio(size: int) -> float:
    """Cells of a level for one cell of the finer level, with corners aligned."""
    return (size - 1) / (2 * size - 1)


def upsampling_reads(box: Box, size: tuple[int, int], align_corners: bool) -> Box:
    """Finds what of a level of that size makes a box of the level twice as fine (bilinear)."""

    def span(start: int, stop: int, cells: int) -> Span:
        if align_corners:
            low, high = start * _ratio(cells), (stop - 1) * _ratio(cells)
        else:
            low, high = start / 2 - 0.25, (stop - 1) / 2 - 0.25
        # A cell to spare for coordinates that rounding puts on the other side of a whole number.
        return max(math.floor(low - 1e-3), 0), min(math.floor(high + 1e-3) + 2, cells)

    return _each_axis(box, size, span)


def upsampling_reaches(box: Box, size: tuple[int, int], align_corners: bool) -> Box:
    """Finds what of the level twice as fine a box of a level of that size has a part in."""

    def span(start: int, stop: int, cells: int) -> Span:
        low, high = 2 * start - 1, 2 * stop + 1
        if align_corners and cells == 1:
            low, high = 0, 2
        elif align_corners:
            ratio = _ratio(cells)
            low, high = math.ceil((start - 1) / ratio - 1e-3), math.ceil(stop / ratio + 1e-3)
        return max(low, 0), min(high, 2 * cells)

    return _each_axis(box, size, span)


def source_cells(
    fine: Span, size: int, align_corners: bool, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Finds what each cell of a level comes from when a level of half its size is upsampled.

    Args:
        fine: Cells of the finer level.
        size: Cells of the whole coarser level.
        align_corners: As in :func:`torch.nn.functional.interpolate`.
        dtype: Type of the features.
        device: Where they are.

    Returns:
        Lower and higher cell (long) and the share of the higher one, each (fine[1] - fine[0],).
    """
    # The arithmetic of F.interpolate, so that coordinates round alike.
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    at = torch.arange(*fine, device=device).to(kind)
    if align_corners:
        at = at * torch.tensor(_ratio(size), dtype=kind, device=device)
    else:
        at = (at / 2 - 0.25).clamp(min=0)
    low = at.long()
    return low, (low + 1).clamp(max=size - 1), (at - low).to(dtype)


def upsample(
    x: Tensor, has: Box, wanted: Box, size: tuple[int, int], align_corners: bool
) -> Tensor:
    """Upsamples a part of a level bilinearly, as if the whole level were there.

    Args:
        x: Features (N,C,*has.size), channels last.
        has: Where they are in their level; holds what :func:`upsampling_reads` names.
        wanted: Which part of the level twice as fine to return.
        size: Height and width of the whole level of ``x``.
        align_corners: As in :func:`torch.nn.functional.interpolate`.

    Returns:
        Features (N,C,*wanted.size).
    """
    if not align_corners or has == whole(size):
        fine = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=align_corners)
        return fine[(..., *wanted.within(has.finer(2)).slices)]
    cells = x.permute(0, 2, 3, 1)
    axes = ((wanted.top, wanted.bottom, has.top), (wanted.left, wanted.right, has.left))
    for axis, (start, stop, offset) in enumerate(axes):
        low, high, share = source_cells((start, stop), size[axis], True, x.dtype, x.device)
        share = share.view((-1, 1) if axis else (-1, 1, 1))
        first, second = (cells.index_select(axis + 1, at - offset) for at in (low, high))
        cells = torch.lerp(first, second, share)
    return cells.permute(0, 3, 1, 2)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, has: Box, wanted: Box) -> Tensor:
    """Convolves a part of a level, with zeros only where the level itself ends.

    Args:
        x: Features (N,C,*has.size).
        weight: Kernel (O,C,k,k), k odd.
        bias: Bias (O,) or None.
        has: Where the features are: ``wanted`` and k // 2 cells around, as far as the level goes.
        wanted: Which part to return.
    """
    reach = weight.shape[2] // 2
    inner = wanted.within(has)
    height, width = has.size
    missing = (
        reach - inner.left,
        reach - (width - inner.right),
        reach - inner.top,
        reach - (height - inner.bottom),
    )
    if len(set(missing)) == 1:
        return F.conv2d(x, weight, bias, padding=missing[0])
    return F.conv2d(F.pad(x, missing), weight, bias)


@dataclass(frozen=True)
class Plan:
    """What each level of a decoder computes for a part of its answer.

    Attributes:
        outputs: By stride, the box of the stage's output (at 32: of the coarsest skip's).
        inputs: By stride below 32, the box of what the stage convolves.
        side: The box of the second block on the image, stride 1.
        image: The box of the first one.
        pixels: The box of the image that this block reads.
        grid: A box of whole cells of the coarsest level, in pixels, that holds all of these.
    """

    outputs: dict[int, Box]
    inputs: dict[int, Box]
    side: Box
    image: Box
    pixels: Box
    grid: Box


def plan(wanted: Box, size: tuple[int, int], align_corners: bool) -> Plan:
    """Works back from a part of the answer to what it needs.

    Args:
        wanted: The part, in pixels.
        size: Height and width of the padded image.
        align_corners: How the decoder upsamples.
    """
    outputs, inputs, grid = {1: wanted}, {}, wanted
    for stride in (1, 2, 4, 8, 16):
        level = size[0] // stride, size[1] // stride
        inputs[stride] = outputs[stride].grow(1, level)
        coarse = level[0] // 2, level[1] // 2
        outputs[2 * stride] = upsampling_reads(inputs[stride], coarse, align_corners)
        grid = grid.join(inputs[stride].finer(stride))
    return _planned(outputs, inputs, inputs[1], grid.join(outputs[32].finer(32)), size)


def edit_plan(changed: Box, size: tuple[int, int], align_corners: bool) -> Plan:
    """Finds what a change of the palette reaches, where the answers of all else are at hand.

    Args:
        changed: Pixels whose request changed.
        size: Height and width of the padded image.
        align_corners: How the decoder upsamples.

    Returns:
        The plan; its output at stride 1 is what of the answer can change.
    """
    outputs, inputs = {32: changed.coarser(32)}, {}
    side = changed.grow(1, size)
    grid = outputs[32].finer(32)
    for stride in (16, 8, 4, 2, 1):
        level = size[0] // stride, size[1] // stride
        # Beside the upsampled features: a skip, or the two blocks on the image.
        own = changed.coarser(stride) if stride > 1 else side
        coarse = level[0] // 2, level[1] // 2
        dirty = upsampling_reaches(outputs[2 * stride], coarse, align_corners).join(own)
        outputs[stride] = dirty.grow(1, level)
        inputs[stride] = outputs[stride].grow(1, level)
        grid = grid.join(inputs[stride].finer(stride))
    return _planned(outputs, inputs, side, grid, size)


def _planned(
    outputs: dict[int, Box], inputs: dict[int, Box], side: Box, grid: Box, size: tuple[int, int]
) -> Plan:
    image = side.grow(1, size)
    grid = grid.join(image).coarser(GRAIN).finer(GRAIN)
    return Plan(outputs, inputs, side, image, image.grow(1, size), grid)
