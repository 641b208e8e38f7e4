"""Parts of feature maps: what a decoder has to compute for a part of its answer.

All boxes are in cells of their level. A decoder's stage at stride s takes the stage before (stride
2s), upsampled, and a side (stride s), and convolves both. The last stage of a subpixel decoder does
so at stride 2, without upsampling, and gives the pixels of each cell.
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


@dataclass(frozen=True)
class Reach:
    """What of a decoder decides how far its answers depend on what is asked.

    Attributes:
        stages: Cells on each side that the stages at strides 16, 8, 4, 2 and 1 convolve.
        align_corners: How they upsample.
        subpixel: Whether the last stage works at stride 2.
    """

    stages: tuple[int, ...]
    align_corners: bool
    subpixel: bool = False

    @property
    def last(self) -> int:
        """Stride at which the last stage and the blocks on the image work."""
        return 2 if self.subpixel else 1


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


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, has: Box, wanted: Box, step: int = 1
) -> Tensor:
    """Convolves a part of a level, with zeros only where the level itself ends.

    Args:
        x: Features (N,C,*has.size).
        weight: Kernel (O,C,k,k), k odd, or even with a step of 2; (C,1,k,k) convolves depthwise.
        bias: Bias (O,) or None.
        has: Where the features are: ``wanted`` and (k - 1) // 2 cells around, as far as the level
            goes.
        wanted: Which part to return, in cells ``step`` times as large.
        step: Stride of the convolution.
    """
    reach = (weight.shape[2] - 1) // 2
    inner = wanted.finer(step).within(has)
    height, width = has.size
    missing = (
        reach - inner.left,
        reach - (width - inner.right),
        reach - inner.top,
        reach - (height - inner.bottom),
    )
    groups = x.shape[1] // weight.shape[1]
    if len(set(missing)) == 1:
        return F.conv2d(x, weight, bias, step, missing[0], 1, groups)
    return F.conv2d(F.pad(x, missing), weight, bias, step, 0, 1, groups)


@dataclass(frozen=True)
class Plan:
    """What each level of a decoder computes for a part of its answer.

    Attributes:
        outputs: By stride, the box of the stage's output (at 32: of the coarsest skip's).
        inputs: By stride below 32, the box of what the stage convolves; at 1 it is of the level
            at which the last stage works.
        side: The box of the last block on the image, in that level.
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


def plan(wanted: Box, size: tuple[int, int], reach: Reach) -> Plan:
    """Works back from a part of the answer to what it needs.

    Args:
        wanted: The part, in pixels; of a subpixel decoder whole cells of stride 2 are computed.
        size: Height and width of the padded image.
        reach: How far the decoder's stages see.
    """
    outputs, inputs = {1: wanted.coarser(reach.last).finer(reach.last)}, {}
    grid = outputs[1]
    for stride, cells in zip((1, 2, 4, 8, 16), reversed(reach.stages), strict=True):
        own = max(stride, reach.last)
        level = size[0] // own, size[1] // own
        inputs[stride] = outputs[stride].coarser(own // stride).grow(cells, level)
        if own == stride:
            coarse = level[0] // 2, level[1] // 2
            outputs[2 * stride] = upsampling_reads(inputs[stride], coarse, reach.align_corners)
        else:
            outputs[2] = inputs[1]
        grid = grid.join(inputs[stride].finer(own))
    return _planned(outputs, inputs, inputs[1], grid.join(outputs[32].finer(32)), size, reach)


def edit_plan(changed: Box, size: tuple[int, int], reach: Reach) -> Plan:
    """Finds what a change of the palette reaches, where the answers of all else are at hand.

    Args:
        changed: Pixels whose request changed.
        size: Height and width of the padded image.
        reach: How far the decoder's stages see.

    Returns:
        The plan; its output at stride 1 is what of the answer can change.
    """
    outputs, inputs = {32: changed.coarser(32)}, {}
    # One block on the image, or two: the second sees what the first one changed.
    side = changed.coarser(2) if reach.subpixel else changed.grow(1, size)
    grid = outputs[32].finer(32)
    for stride, cells in zip((16, 8, 4, 2, 1), reach.stages, strict=True):
        own = max(stride, reach.last)
        level = size[0] // own, size[1] // own
        # Beside the upsampled features: a skip, or the blocks on the image.
        dirty = changed.coarser(stride) if stride > 1 else side
        if own == stride:
            coarse = level[0] // 2, level[1] // 2
            reached = upsampling_reaches(outputs[2 * stride], coarse, reach.align_corners)
        else:
            reached = outputs[2]
        out = dirty.join(reached).grow(cells, level)
        outputs[stride] = out.finer(own // stride)
        inputs[stride] = out.grow(cells, level)
        grid = grid.join(inputs[stride].finer(own))
    return _planned(outputs, inputs, side, grid, size, reach)


def _planned(
    outputs: dict[int, Box],
    inputs: dict[int, Box],
    side: Box,
    grid: Box,
    size: tuple[int, int],
    reach: Reach,
) -> Plan:
    image = side if reach.subpixel else side.grow(1, size)
    pixels = image.finer(reach.last)
    grid = grid.join(pixels).coarser(GRAIN).finer(GRAIN)
    return Plan(outputs, inputs, side, image, pixels.grow(1, size), grid)
