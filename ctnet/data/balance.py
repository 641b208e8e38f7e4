"""How often each class is labeled, with and without a teacher."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ctnet.data.label_source import LabelSource
from ctnet.data.sampling import LEAST_PIXELS, count_pixels
from ctnet.data.teacher import TASK, find_teacher
from ctnet.tasks import get_task


@dataclass(frozen=True)
class ClassCounts:
    """How often each class of a task is labeled.

    Attributes:
        photographs: Photographs that show each class (C,) int64.
        pixels: Pixels of each class (C,) int64.
    """

    photographs: Tensor
    pixels: Tensor

    @classmethod
    def summed(cls, counts: Tensor) -> ClassCounts:
        """Sums the pixels (N,C) of each class on each photograph."""
        return cls((counts >= LEAST_PIXELS).sum(0), counts.sum(0))


@dataclass(frozen=True)
class ClassBalance:
    """The labels of a task that a training uses.

    Attributes:
        task: Name of the task.
        used: What training sees.
        own: The same without the teacher's labels, where there is a teacher.
    """

    task: str
    used: ClassCounts
    own: ClassCounts | None = None


def class_balance(source: LabelSource, task: str, counts: Tensor) -> ClassBalance:
    """Counts the labels of a task of kind ``classes``, with and without a teacher.

    Args:
        source: Photographs and labels as training sees them.
        task: Name of the task.
        counts: Pixels (N,C) of each class that training sees on each photograph
            (:func:`~.sampling.count_classes`).
    """
    used = ClassCounts.summed(counts)
    teacher = find_teacher(source) if task == TASK else None
    if teacher is None:
        return ClassBalance(task, used)
    places = {name: index for index, name in enumerate(teacher.ids)}
    own = torch.zeros_like(counts)
    for row, name in zip(own, source.ids, strict=True):
        label = teacher.own_label(places[name], task)
        if label is not None:
            row.copy_(count_pixels(label, len(get_task(task).classes)))
    return ClassBalance(task, used, ClassCounts.summed(own))


def write_balance(path: Path, balances: Sequence[ClassBalance]) -> None:
    """Writes a CSV with a line for each class: photographs and pixels, used and without teacher."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["task", "class", "photographs", "pixels", "photographs_without_teacher",
             "pixels_without_teacher"]
        )  # fmt: skip
        for balance in balances:
            columns = [
                counts
                for part in (balance.used, balance.own or balance.used)
                for counts in (part.photographs.tolist(), part.pixels.tolist())
            ]
            names = get_task(balance.task).classes
            writer.writerows([balance.task, *row] for row in zip(names, *columns, strict=True))
