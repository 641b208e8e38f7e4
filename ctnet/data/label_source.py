"""The interface of data sets: photographs and labels by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class LabelSource(Protocol):
    """Where images and labels come from: one class for each layout on disk.

    It may also have ``files(index)``, the paths that an image and its labels are read from
    (:func:`~.wrapped.source_files`): a training that goes on notices by them that data changed.
    """

    name: str
    """The data set's name."""

    split: str
    """The split that is open."""

    @property
    def ids(self) -> Sequence[str]:
        """Names of the images."""
        ...

    def load(self, index: int) -> dict[str, np.ndarray]:
        """Reads ``image`` (H,W,3) and the labels that exist, uint8, by task name.

        Class maps are (H,W) with 255 = not labeled, strengths (H,W), normals (H,W,3) as
        (n+1)/2 * 255; ``NAME.valid`` (H,W) bool says where a label counts if not everywhere.
        """
        ...

    def origin(self, index: int) -> str:
        """Returns the name of the source that an image is from."""
        ...

    def kind(self, index: int, task: str) -> str:
        """Returns ``true``, ``distilled`` or, where there is no label, an empty string."""
        ...

    def measured_on(self, task: str, semantic: bool) -> Sequence[str]:
        """Returns the sources whose labels of a task are the best to measure on.

        Args:
            task: Name of the task.
            semantic: Only sources that have a class map throughout, as semantic rules need.
        """
        ...

    def annotators(self, index: int) -> list[np.ndarray] | None:
        """Returns the boundaries (H,W) that each human drew, where they are known."""
        ...
