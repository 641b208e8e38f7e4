"""Label tables: how likely each class is at a point of the cube of sigmoid outputs.

Eq. 5 reads the class of the nearest anchor, so a soft border or a doubt between two classes that
passes by the anchor of a third becomes that third class. A label table holds, for each cell of a
grid over the cube, log p(class | cell) as counted on labeled photographs
(:mod:`ctnet.training.count_tables`), and reads a class by one look-up. It belongs to the network
whose outputs were counted and travels in its checkpoint; a task without a table reads by eq. 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ctnet.labels import Point

MAX_BYTES = 600_000
"""Largest label table in bytes."""

MAX_CELLS = 24
"""Largest number of cells along a side of the cube."""

NORMALIZED = 0.05
"""How far the probabilities of a cell may be from a sum of 1, in fp16."""


def table_cells(classes: int) -> int:
    """Returns how many cells a table for so many classes has along each side of the cube.

    The most, up to :data:`MAX_CELLS`, whose table in fp16 fits into :data:`MAX_BYTES`: 24 for up
    to 21 classes, 10 for 255.
    """
    cells = MAX_CELLS
    while cells > 2 and cells**3 * classes * 2 > MAX_BYTES:
        cells -= 1
    return cells


def cell_index(outputs: Tensor, cells: int) -> Tensor:
    """Finds the cell of each output.

    Args:
        outputs: Raw outputs (...,3).
        cells: Cells along each side of the cube.

    Returns:
        Index (...) int64 into the flattened grid, the first channel outermost.
    """
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    steps = (torch.sigmoid(outputs) * cells).long().clamp_(0, cells - 1)
    return (steps[..., 0] * cells + steps[..., 1]) * cells + steps[..., 2]


def cell_centers(cells: int) -> Tensor:
    """Returns the center (G,G,G,3) of each cell of a grid over the cube."""
    axis = (torch.arange(cells) + 0.5) / cells
    return torch.cartesian_prod(axis, axis, axis).view(cells, cells, cells, 3)


@dataclass(frozen=True)
class TableReader:
    """Reads classes off raw outputs by a table.

    Attributes:
        table: log p(class | cell) (G,G,G,C).
    """

    table: Tensor

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Returns p(class | output) (...,C) float32 for raw outputs (...,3)."""
        rows = self.table.to(outputs.device).flatten(0, 2).float().softmax(-1)
        return rows[cell_index(outputs, self.table.shape[0])]

    def classes(self, outputs: Tensor) -> Tensor:
        """Returns the likeliest class (...) uint8 for raw outputs (...,3)."""
        best = self.best().to(outputs.device).flatten()
        return best[cell_index(outputs, self.table.shape[0])]

    def best(self) -> Tensor:
        """Returns the likeliest class of each cell (G,G,G) uint8."""
        return self.table.argmax(-1).to(torch.uint8)

    def anchors(self) -> tuple[Point, ...]:
        """Returns a point of the cube for each class: the middle of the cells that read it.

        A class that no cell reads has the cell where it is most likely.
        """
        centers = cell_centers(self.table.shape[0]).flatten(0, 2).double()
        best, likeliest = self.best().flatten().cpu(), self.table.flatten(0, 2).argmax(0).tolist()
        means = [
            centers[best == k].mean(0) if bool((best == k).any()) else centers[cell]
            for k, cell in enumerate(likeliest)
        ]
        return tuple((float(x), float(y), float(z)) for x, y, z in means)


class LabelTables(nn.Module):
    """The label tables of a network, as buffers named by task.

    Args:
        classes: Number of classes of each task that has a table.
    """

    def __init__(self, classes: Mapping[str, int]) -> None:
        super().__init__()
        self.tasks = tuple(classes)
        for task, count in classes.items():
            cells = table_cells(count)
            empty = torch.zeros(cells, cells, cells, count, dtype=torch.float16)
            self.register_buffer(task, empty)

    def reader(self, task: str) -> TableReader:
        """Returns what reads a task's classes."""
        return TableReader(self.get_buffer(task))

    def check(self) -> None:
        """Checks that every table holds probabilities.

        Raises:
            ValueError: If one does not; the message names its task.
        """
        for task in self.tasks:
            table = self.get_buffer(task).float()
            if not bool(table.isfinite().all()):
                raise ValueError(f"the label table of {task} holds NaN or infinite numbers.")
            off = float((table.exp().sum(-1) - 1).abs().max())
            if off > NORMALIZED:
                raise ValueError(
                    f"the label table of {task} holds no probabilities: those of a cell sum to 1, "
                    f"here one is {off:.2g} off."
                )
