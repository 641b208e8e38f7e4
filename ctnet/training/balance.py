"""How often each class is labeled, with and without a teacher."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ctnet.tasks import IGNORE, get_task
from ctnet.training.datasets import LabelSource
from ctnet.training.teacher import TASK, find_teacher

LEAST_PIXELS = 100
"""Pixels from which on a photograph is said to show a class."""


@dataclass(frozen=True)
class ClassCounts:
    """How often each class of a task is labeled.

    Attributes:
        photographs: Photographs that show each class (C,) int64.
        pixels: Pixels of each class (C,) int64.
    """

    photographs: Tensor
    pixels: Tensor


def count_classes(
    labels: Iterable[np.ndarray | None], classes: int, least: int = LEAST_PIXELS
) -> ClassCounts:
    """Counts the classes of class maps.

    Args:
        labels: Class ids (H,W) uint8, 255 = not labeled; None has no pixels.
        classes: Number of classes C; ids beyond them do not count.
        least: Pixels from which on a photograph counts for a class.
    """
    photographs = torch.zeros(classes, dtype=torch.int64)
    pixels = torch.zeros(classes, dtype=torch.int64)
    for label in labels:
        if label is not None:
            counts = torch.bincount(torch.from_numpy(label).flatten(), minlength=IGNORE + 1)
            pixels += counts[:classes]
            photographs += counts[:classes] >= max(least, 1)
    return ClassCounts(photographs, pixels)


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


def class_balance(source: LabelSource, task: str) -> ClassBalance:
    """Counts the labels of a task of kind ``classes``, with and without a teacher.

    Args:
        source: Photographs and labels as training sees them.
        task: Name of the task.
    """
    classes = len(get_task(task).classes)
    indices = range(len(source.ids))
    used = count_classes((source.load(index).get(task) for index in indices), classes)
    teacher = find_teacher(source) if task == TASK else None
    if teacher is None:
        return ClassBalance(task, used)
    places = {name: index for index, name in enumerate(teacher.ids)}
    labels = (teacher.own_label(places[name], task) for name in source.ids)
    own = count_classes(labels, classes)
    return ClassBalance(task, used, own)


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
