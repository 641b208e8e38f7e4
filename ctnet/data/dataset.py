"""Data sets: layouts on disk, and whole photographs with labels under a rule."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ctnet.checks import did_you_mean
from ctnet.data.compositemt import CompositeMTMini
from ctnet.data.derived import DERIVATIONS, DerivedLabels
from ctnet.data.folder import FolderSource, is_folder_layout
from ctnet.data.held_out import SPLITS, split_train
from ctnet.data.label_source import LabelSource
from ctnet.data.pascal_mt import PascalMT
from ctnet.data.sample import Sample
from ctnet.data.teacher import Teacher, TeacherSource
from ctnet.data.working_size import WorkingSizeSource
from ctnet.data.wrapped import SubsetSource
from ctnet.palette import Size
from ctnet.rules import Rule
from ctnet.tasks import DEFAULT_TASKS, IGNORE, get_task

SOURCES: Mapping[str, Callable[[str | Path, str], LabelSource]] = {
    "compositemt": CompositeMTMini,
    "pascal-mt": PascalMT,
    "folder": FolderSource,
}
"""Label sources by the name of their layout."""

AUTO = "auto"
"""The layout that a folder shows."""


def find_layout(root: str | Path) -> str:
    """Finds out the layout of a data set.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it shows none of the layouts.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} with a data set.")
    if (folder / "index.csv").is_file():
        return "compositemt"
    if (folder / "JPEGImages").is_dir():
        return "pascal-mt"
    if is_folder_layout(folder):
        return "folder"
    raise ValueError(
        f"{folder} is no data set: it has neither images/ with a folder of labels for each task "
        "beside it, nor index.csv (CompositeMT), nor JPEGImages (PASCAL-MT)."
    )


def open_source(
    layout: str,
    root: str | Path,
    split: str,
    tasks: Sequence[str] = DEFAULT_TASKS,
    teacher: Teacher = "none",
    working_size: bool = False,
    val_share: float | None = None,
    skip: Collection[str] = (),
) -> LabelSource:
    """Opens a data set.

    Args:
        layout: ``folder`` (:mod:`ctnet.data.folder`), ``compositemt``, ``pascal-mt``, or ``auto``,
            which finds out.
        root: Its folder.
        split: ``train`` or ``val``; ``held-in`` or ``held-out`` for a part of ``train``
            (:mod:`ctnet.data.held_out`).
        tasks: Names of the tasks that are wanted; those of :mod:`ctnet.data.derived` are made
            from the labels that there are.
        teacher: Where a teacher's class maps fill in for ``seg``, on the train split alone; see
            :class:`~.teacher.TeacherSource`.
        working_size: Scale larger photographs down to the size at which networks see them, as
            training and counting do; measuring compares at the size of the labels.
        val_share: Share of the photographs to validate on, for the layout ``folder``.
        skip: Names of photographs to leave out.

    Raises:
        FileNotFoundError: If the folder does not hold that data set, or a teacher's class map is
            missing.
        ValueError: If the layout or the split is unknown, nothing is left of it, or it can have no
            teacher.
    """
    if layout == AUTO:
        layout = find_layout(root)
    if layout not in SOURCES:
        raise ValueError(f"unknown layout {layout!r}{did_you_mean(layout, (AUTO, *SOURCES))}")
    if teacher != "none" and split not in ("train", "held-in"):
        raise ValueError(f"a teacher's labels are for training alone; got the split {split!r}.")
    part = "train" if split in SPLITS else split
    if layout == "folder":
        source: LabelSource = FolderSource(root, part, val_share, tasks)
    elif layout == "compositemt":
        source = CompositeMTMini(root, part, tasks=tasks)
    else:
        source = SOURCES[layout](root, part)
    if skip:
        left = [index for index, name in enumerate(source.ids) if name not in skip]
        if not left:
            raise ValueError(f"no photograph of {source.name} ({split}) can be used.")
        source = SubsetSource(source, left, source.split)
    if teacher != "none":
        source = TeacherSource(source, teacher)
    if split in SPLITS:
        source = split_train(source, split)
    if working_size:
        source = WorkingSizeSource(source)
    for task in tasks:
        if task in DERIVATIONS:
            source = DerivedLabels(source, DERIVATIONS[task])
    return source


class CompositeDataset(Dataset[Sample]):
    """Whole photographs of a label source under a rule, by index.

    Args:
        source: Where images and labels come from.
        rule: What makes the palettes. Mosaic and random rules draw among the tasks that the image
            has labels for; semantic rules read its class map and ask for nothing where that is
            missing. None asks for nothing.
        tasks: Names of the tasks by id.
    """

    def __init__(
        self, source: LabelSource, rule: Rule | None, tasks: Sequence[str] = DEFAULT_TASKS
    ) -> None:
        self.source = source
        self.rule = rule
        self.tasks: tuple[str, ...] = tuple(tasks)

    def __len__(self) -> int:
        return len(self.source.ids)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """Returns a photograph by its index, or by (index, seed of the palette)."""
        index, seed = key if isinstance(key, tuple) else (key, key)
        raw = self.source.load(index)
        height, width = raw["image"].shape[:2]
        valid = torch.zeros(len(self.tasks), height, width, dtype=torch.bool)
        labels = {}
        for number, name in enumerate(self.tasks):
            kind = get_task(name).kind
            labels[name] = _label(raw.get(name), kind, (height, width))
            if name in raw:
                valid[number] = torch.from_numpy(raw.get(f"{name}.valid", np.array(True)))
            if kind == "classes":
                valid[number] &= labels[name] != IGNORE
        image = torch.from_numpy(raw["image"]).permute(2, 0, 1).float() / 255
        return Sample(image, self._palette(raw, seed), labels, valid)

    def _palette(self, raw: dict[str, np.ndarray], seed: int) -> Tensor:
        size = raw["image"].shape[0], raw["image"].shape[1]
        classes = raw.get(self.rule.reads) if self.rule is not None else None
        if self.rule is None or (self.rule.needs_labels and classes is None):
            return torch.full(size, IGNORE, dtype=torch.int64)
        labeled = [name for name in self.tasks if name in raw]
        generator = np.random.default_rng(seed)
        palette = self.rule.palette(size, generator, classes, self.tasks, labeled or None)
        return palette.tensor()


def _label(stored: np.ndarray | None, kind: str, size: Size) -> Tensor:
    """Maps a stored label to the range that losses and metrics work in; one that is missing too."""
    if stored is None:
        stored = np.full((*size, 3) if kind == "normals" else size, IGNORE, np.uint8)
    label = torch.from_numpy(stored)
    if kind == "classes":
        return label.long()
    if kind == "probability":
        return label.float() / 255
    normals = label.permute(2, 0, 1).float() / 127.5 - 1
    return normals / normals.square().sum(0, keepdim=True).sqrt().clamp(min=1e-6)


def measured_images(source: LabelSource, task: str, semantic: bool = False) -> list[int]:
    """Returns the images that a task is measured on: those with its best labels.

    Args:
        source: Photographs and labels.
        task: Name of the task.
        semantic: As for :meth:`LabelSource.measured_on`.
    """
    sources = source.measured_on(task, semantic)
    return [
        i for i in range(len(source.ids)) if source.origin(i) in sources and source.kind(i, task)
    ]


def taken_evenly(images: Sequence[int], limit: int | None) -> list[int]:
    """Takes a number of images, evenly from all; None takes all."""
    if limit is None or len(images) <= limit:
        return list(images)
    return [images[k * len(images) // limit] for k in range(limit)]
