"""Reads a whole data set once and says what is in it and what is wrong with it."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ctnet.data.dataset import open_source
from ctnet.data.folder import FolderSource, Problem
from ctnet.data.label_files import LabelError, NoPhotographsError
from ctnet.data.label_source import LabelSource
from ctnet.data.wrapped import source_files
from ctnet.tasks import DEFAULT_TASKS, IGNORE, TASKS, TaskSpec

THREADS = 4


@dataclass(frozen=True)
class TaskCount:
    """The labels of a task.

    Attributes:
        task: The task.
        photographs: Photographs that have a label.
        pixels: Labeled pixels of each class (C,); of tasks without classes, none.
    """

    task: TaskSpec
    photographs: int
    pixels: tuple[int, ...]


@dataclass(frozen=True)
class DataReport:
    """What a data set holds.

    Attributes:
        name: Its name.
        train: Photographs to train on.
        val: Photographs to validate on.
        tasks: The labels of each task.
        problems: Files that cannot be used, each with its reason.
        bad: Names of the photographs that these files belong to.
    """

    name: str
    train: int
    val: int
    tasks: tuple[TaskCount, ...]
    problems: tuple[Problem, ...]
    bad: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.train} photographs to train on, {self.val} to validate on"]
        for count in self.tasks:
            lines.append(f"{count.task.name}: {count.photographs} labels")
            total = max(1, sum(count.pixels))
            width = max(map(len, count.task.classes), default=0)
            lines += [
                f"  {number:>3} {name:<{width}} {pixels:>12,} px {pixels / total:>7.2%}"
                for number, (name, pixels) in enumerate(
                    zip(count.task.classes, count.pixels, strict=False)
                )
            ]
        lines.append(f"problems: {len(self.problems) or 'none'}")
        lines += [f"  {problem}" for problem in self.problems]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Read:
    """What one photograph has: pixels of each class by task, or what is wrong."""

    pixels: dict[str, npt.NDArray[np.int64]]
    problem: Problem | None = None


def check_data(
    root: str | Path,
    layout: str = "auto",
    val_share: float | None = None,
    progress: bool = False,
) -> DataReport:
    """Reads every photograph and label of a data set.

    Args:
        root: Its folder.
        layout: Its layout, as :func:`ctnet.data.dataset.open_source` takes it.
        val_share: Share of the photographs to validate on, for the layout ``folder``.
        progress: Show a progress bar.

    Raises:
        FileNotFoundError: If the folder does not hold a data set.
        ValueError: If the layout is unknown, or nothing can be read of it.
    """
    parts = {"train": open_source(layout, root, "train", val_share=val_share)}
    with contextlib.suppress(NoPhotographsError):
        parts["val"] = open_source(layout, root, "val", val_share=val_share)
    specs = _specs(parts["train"])
    problems: list[Problem] = []
    for source in parts.values():
        if isinstance(source, FolderSource):
            problems += [problem for problem in source.problems if problem not in problems]
    bad: list[str] = []
    reads: list[_Read] = []
    for source in parts.values():
        for index, read in enumerate(_read_all(source, specs, progress)):
            reads.append(read)
            if read.problem is not None:
                problems.append(read.problem)
                bad.append(source.ids[index])
    counts = []
    for name, spec in specs.items():
        found = [read.pixels[name] for read in reads if name in read.pixels]
        summed = sum(found, np.zeros(len(spec.classes), np.int64))
        counts.append(TaskCount(spec, len(found), tuple(summed.tolist())))
    train, val = (len(parts[part].ids) if part in parts else 0 for part in ("train", "val"))
    name = parts["train"].name
    return DataReport(name, train, val, tuple(counts), tuple(problems), tuple(bad))


def _specs(source: LabelSource) -> dict[str, TaskSpec]:
    if isinstance(source, FolderSource):
        return source.specs
    names = getattr(source, "tasks", DEFAULT_TASKS)
    return {name: TASKS[name] for name in names}


def _read_all(source: LabelSource, specs: dict[str, TaskSpec], progress: bool) -> list[_Read]:
    def read(index: int) -> _Read:
        first = next(iter(source_files(source, index)), Path(source.ids[index]))
        try:
            found = source.load(index)
        except (LabelError, FileNotFoundError) as error:
            path, text = _split(str(error), first)
            return _Read({}, Problem(path, text))
        pixels = {}
        for name, spec in specs.items():
            if name not in found:
                continue
            counts = np.bincount(found[name].ravel(), minlength=IGNORE + 1)
            pixels[name] = counts[: len(spec.classes)].astype(np.int64)
            if spec.kind == "classes" and not pixels[name].any():
                return _Read(pixels, Problem(first, f"its label of {name} labels nothing"))
        return _Read(pixels)

    with ThreadPoolExecutor(THREADS) as pool:
        reads = pool.map(read, range(len(source.ids)))
        total = len(source.ids)
        return list(
            tqdm(reads, source.split, total, unit="image", leave=False, disable=not progress)
        )


def _split(message: str, photograph: Path) -> tuple[Path, str]:
    """Splits a message that begins with a file's name into both."""
    for end in range(len(message), 0, -1):
        if message[end - 1] not in " :":
            continue
        head = Path(message[: end - 1].rstrip(": "))
        if head.is_absolute() and head.exists():
            return head, message[end - 1 :].lstrip(": ")
    return photograph, message
