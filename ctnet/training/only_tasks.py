"""Learning what some tasks alone are given: their scales and shifts (section 3).

A conditioned batch norm reads gamma and beta of a task linearly from a hidden vector that the
task's embedding is mapped to. There are fewer tasks than entries of that vector, so a change of the
weights can be made that reaches chosen tasks and no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn

from ctnet.blocks.conditioned_batch_norm import ConditionedBatchNorm
from ctnet.models.ctn import CTN

SMALLEST = 0.05
"""Smallest over largest singular value of a norm's hidden vectors at which it tells tasks apart.

Below it a change that is confined to one task is large in between, where cells mix several.
"""


class TaskAffines:
    """The weights of a network that give its tasks their gamma and beta, for some of the tasks.

    Making it freezes everything else. Keep the network in eval mode while these learn: the
    statistics of norms serve all tasks.

    Args:
        model: A CTN.
        tasks: Names of the tasks that learn.

    Raises:
        ValueError: If the model is no CTN or does not do one of the tasks.
    """

    def __init__(self, model: nn.Module, tasks: Sequence[str]) -> None:
        if not isinstance(model, CTN):
            raise ValueError("only_tasks is for a CTN, whose tasks share one decoder.")
        unknown = sorted(set(tasks) - set(model.tasks))
        if unknown:
            raise ValueError(
                f"only_tasks names {unknown[0]!r}; the network does {', '.join(model.tasks)}."
            )
        self._representation = model.representation
        self._tasks = [model.tasks.index(task) for task in tasks]
        self._norms = [m for m in model.decoder.modules() if isinstance(m, ConditionedBatchNorm)]
        model.requires_grad_(False)
        for norm in self._norms:
            norm.gamma.weight.requires_grad_()
            norm.beta.weight.requires_grad_()

    @cached_property
    def _reached(self) -> list[tuple[Tensor, Tensor]]:
        """The weights that learn and the maps of their changes, by the weights of the first use."""
        with torch.no_grad():
            embeddings = self._representation()
            maps = [_projection(norm.hidden(embeddings), self._tasks) for norm in self._norms]
        if not any(map(torch.any, maps)):
            raise ValueError("no norm of this network tells its tasks apart.")
        return [
            (layer.weight, reached)
            for norm, reached in zip(self._norms, maps, strict=True)
            for layer in (norm.gamma, norm.beta)
        ]

    @contextmanager
    def others_kept(self) -> Iterator[None]:
        """Takes back, at its end, what changed within it for the other tasks.

        A norm that hardly tells its tasks apart stays as it was.

        Raises:
            ValueError: If no norm tells them apart.
        """
        before = [weight.detach().clone() for weight, _ in self._reached]
        yield
        with torch.no_grad():
            for (weight, reached), start in zip(self._reached, before, strict=True):
                weight.copy_(start + (weight - start) @ reached)


def _projection(hidden: Tensor, rows: Sequence[int]) -> Tensor:
    """Returns the map (H,H) of a weight's changes to those that only some rows of (K,H) see."""
    exact = hidden.double()
    if int(torch.linalg.matrix_rank(exact, rtol=SMALLEST)) < len(exact):
        return hidden.new_zeros(2 * exact.shape[1:])
    dual: Tensor = torch.linalg.pinv(exact)
    return (exact[rows].T @ dual[:, rows].T).to(hidden)
