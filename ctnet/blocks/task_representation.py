"""The task representation block: task codes z_k to task embeddings e_k (section 3)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ctnet.blocks.initialization import keep_scale

CODE_BLOCK = 20
"""Ones in a task's code: its length is this times the number of codes it was made for."""


def task_codes(tasks: int, length: int) -> Tensor:
    """Builds the unit codes z_k (tasks, length): blocks of ``CODE_BLOCK`` equal entries.

    Raises:
        ValueError: If the length does not hold a block for every task.
    """
    if length < tasks * CODE_BLOCK:
        raise ValueError(
            f"{tasks} tasks need codes of at least {tasks * CODE_BLOCK} entries, got {length}."
        )
    codes = torch.zeros(tasks, length)
    for task in range(tasks):
        codes[task, task * CODE_BLOCK : (task + 1) * CODE_BLOCK] = CODE_BLOCK**-0.5
    return codes


class TaskRepresentationBlock(nn.Module):
    """Maps the code z_k of each task to its embedding e_k by fully connected layers.

    The palette then spreads e over the image: each pixel gets the embedding of the task that it
    requests (:mod:`ctnet.blocks.palette_pyramid`).

    Args:
        tasks: Number of tasks K.
        code_length: Length of the codes, 100 in the paper.
        width: Length E of the embeddings, 128 in the paper.
        layers: Number of fully connected layers, 6 in the paper.
        added: How many of the tasks, the last ones, came to a trained network: their embeddings
            are parameters of their own, which no other task shares.
    """

    def __init__(
        self,
        tasks: int,
        code_length: int = 100,
        width: int = 128,
        layers: int = 6,
        added: int = 0,
    ) -> None:
        super().__init__()
        self.codes: Tensor
        self.register_buffer("codes", task_codes(tasks - added, code_length))
        mapping: list[nn.Module] = []
        for layer in range(layers):
            linear = nn.Linear(width if layer else code_length, width)
            keep_scale(linear, slope=0.2)
            mapping += [linear, nn.LeakyReLU(0.2)]
        # Codes have unit length, not entries of unit size: this gives embeddings entries near 1.
        nn.init.normal_(mapping[0].weight, std=2**0.5)  # type: ignore[arg-type]
        self.mapping = nn.Sequential(*mapping)
        self.added = nn.Parameter(torch.zeros(added, width)) if added else None

    def forward(self) -> Tensor:
        """Returns the embeddings (K,E)."""
        embeddings = cast(Tensor, self.mapping(self.codes))
        return embeddings if self.added is None else torch.cat([embeddings, self.added])
