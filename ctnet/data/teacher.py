"""Segmentation by a teacher network, in training alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from ctnet.checks import did_you_mean
from ctnet.data.compositemt import CompositeMTMini
from ctnet.data.label_source import LabelSource
from ctnet.data.wrapped import WrappedSource
from ctnet.tasks import IGNORE

Teacher = Literal["none", "missing", "everywhere"]
"""Where a teacher's class maps are used: nowhere, on photographs that have no class map, or on
these and wherever a pixel of a class map is not labeled."""

TASK = "seg"
"""The task that the teacher knows."""


class TeacherSource(WrappedSource):
    """A label source whose missing labels of ``seg`` come from a teacher network.

    A label that is there is never changed; see :class:`~.label_source.LabelSource`.

    Args:
        source: The train split of CompositeMT-mini, ``teacher-seg.tar`` unpacked beside it.
        use: ``missing`` fills photographs without a class map; ``everywhere`` also fills the pixels
            of class maps that are not labeled (255), such as the borders of objects and what a
            data set has no class for. Class maps that are distilled already need no teacher's
            file: ``inet`` and ``coco5`` have none.

    Raises:
        ValueError: If the split is not ``train``, the data set has no teacher, or ``use`` is
            unknown.
        FileNotFoundError: If the teacher's file of any other photograph is missing.
    """

    def __init__(self, source: LabelSource, use: Teacher = "missing") -> None:
        super().__init__(source)
        if use not in ("missing", "everywhere"):
            raise ValueError(
                f"unknown use of a teacher {use!r}{did_you_mean(use, get_args(Teacher))}"
            )
        if not isinstance(source, CompositeMTMini):
            raise ValueError(f"{source.name} has no teacher; its labels are all there are.")
        if source.split != "train":
            raise ValueError(
                f"a teacher's labels are for training alone; got the split {source.split!r}."
            )
        self._photographs = source
        self._filled_at = {
            index
            for index in range(len(source.ids))
            if use == "everywhere" or not source.kind(index, TASK)
        }
        files = {index: source.teacher_file(index) for index in sorted(self._filled_at)}
        lacking = {index for index, path in files.items() if not path.is_file()}
        self._filled_at -= lacking
        missing = [
            files[index] for index in sorted(lacking) if source.kind(index, TASK) != "distilled"
        ]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise FileNotFoundError(
                f"no teacher's class map at {missing[0]}{more}: unpack teacher-seg.tar into "
                f"{source.root}, or train with teacher = 'none'."
            )

    def load(self, index: int) -> dict[str, np.ndarray]:
        """Reads an image and its labels, those of the teacher filled in.

        Raises:
            ValueError: If the teacher's class map is not of the photograph's size.
        """
        found = super().load(index)
        if index in self._filled_at:
            found[TASK] = self._filled(index, found)
        return found

    def files(self, index: int) -> Sequence[Path]:
        """Returns the files that an image and its labels are read from, the teacher's too."""
        filled = [self._photographs.teacher_file(index)] if index in self._filled_at else []
        return [*super().files(index), *filled]

    def kind(self, index: int, task: str) -> str:
        """Returns the kind of a label: ``distilled`` wherever the teacher may have a part in it."""
        if task == TASK and index in self._filled_at:
            return "distilled"
        return super().kind(index, task)

    def own_label(self, index: int, task: str) -> np.ndarray | None:
        """Reads a label as it is without the teacher, None where there is none."""
        return self._photographs.label(index, task)

    def _filled(self, index: int, found: dict[str, np.ndarray]) -> np.ndarray:
        classes = self._photographs.teacher(index)
        size = found["image"].shape[:2]
        if classes.shape != size:
            path = self._photographs.teacher_file(index)
            raise ValueError(f"{path} is {classes.shape}, its photograph {size}.")
        own = found.get(TASK)
        return classes if own is None else np.where(own == IGNORE, classes, own)


def find_teacher(source: LabelSource) -> TeacherSource | None:
    """Finds the teacher among the layers of a source, None where it has none."""
    while isinstance(source, WrappedSource):
        if isinstance(source, TeacherSource):
            return source
        source = source.inner
    return None
