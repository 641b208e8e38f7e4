"""Learned readers: small networks that read classes off three channels, in training alone.

Fixed anchors (eq. 5) say in advance where in the cube of sigmoid outputs a class lies. A reader,
3 -> 64 -> 64 -> C, learns it with the network. What it has learned goes into the checkpoint as a
label table (:mod:`ctnet.label_tables`), so that inference needs no reader.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ctnet.label_tables import cell_centers, table_cells

START_STEPS = 1000
"""Number of steps in which a reader learns to read as a network did."""

START_POINTS = 2048
"""Number of points of the cube in a batch."""

START_RATE = 1e-2
"""Learning rate of the first of them; it falls to 0."""


class LearnedReaders(nn.Module):
    """The readers of the class tasks of a network.

    Args:
        classes: Number of classes of each task that has a reader.
        width: Width of the two hidden layers.

    Attributes:
        classes: Number of classes of each task that has a reader.
    """

    def __init__(self, classes: Mapping[str, int], width: int) -> None:
        super().__init__()
        self.classes = dict(classes)
        self.current = nn.ModuleDict({task: _reader(width, n) for task, n in classes.items()})
        self.average = copy.deepcopy(self.current).requires_grad_(False)

    def start_from(self, task: str, probabilities: Callable[[Tensor], Tensor]) -> None:
        """Begins a reader, and its average, from how a network reads a task so far.

        Args:
            task: Name of the task.
            probabilities: Turns raw outputs (P,3) into class probabilities (P,C).
        """
        network = self.current[task]
        optimizer = torch.optim.Adam(network.parameters(), START_RATE)
        falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, START_STEPS)
        generator = torch.Generator().manual_seed(0)
        for _ in range(START_STEPS):
            outputs = torch.logit(torch.rand(START_POINTS, 3, generator=generator), 1e-6)
            scores = self.scores(task, outputs)
            loss = nn.functional.cross_entropy(scores, probabilities(outputs))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            falling.step()
        self.average[task].load_state_dict(network.state_dict())

    def scores(self, task: str, outputs: Tensor, average: bool = False) -> Tensor:
        """Scores classes.

        Args:
            task: Name of the task.
            outputs: Raw outputs (...,3).
            average: By the moving average of the reader, which fits the averaged network.

        Returns:
            Scores (...,C); their softmax are the class probabilities.
        """
        points = 2 * torch.sigmoid(outputs) - 1
        scores: Tensor = (self.average if average else self.current)[task](points)
        return scores

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Moves the average towards the present readers."""
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(list(self.average.parameters()), list(self.current.parameters()), None)

    @torch.no_grad()
    def table(self, task: str) -> Tensor:
        """Returns log p(class | cell) (G,G,G,C) fp16 as the averaged reader says."""
        centers = cell_centers(table_cells(self.classes[task]))
        outputs = torch.logit(centers).to(next(self.average.parameters()).device)
        return self.scores(task, outputs, average=True).log_softmax(-1).half()


def _reader(width: int, classes: int) -> nn.Sequential:
    hidden = [nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(width, classes))
