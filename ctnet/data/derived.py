"""Labels for further tasks, made from those that a data set has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ctnet.data.label_source import LabelSource
from ctnet.data.wrapped import WrappedSource
from ctnet.tasks import IGNORE, TaskSpec, register_task


@dataclass(frozen=True)
class Derivation:
    """How the labels of a task follow from another task's.

    Attributes:
        task: The task that gets labels.
        origin: Name of the task that they are made from.
        make: Maps the origin's label, as :meth:`~.label_source.LabelSource.load` gives it, to the
            new label of the same convention and to where that counts (H,W) bool.
    """

    task: TaskSpec
    origin: str
    make: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def _foreground(classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = classes != IGNORE
    return np.where(known & (classes != 0), 255, 0).astype(np.uint8), known


DERIVATIONS = {
    "foreground": Derivation(
        TaskSpec("foreground", "foreground", "probability", (194, 24, 91)), "seg", _foreground
    )
}
"""The derivations that come with ctnet, by task; ``foreground`` is wherever a VOC object is."""


class DerivedLabels(WrappedSource):
    """A label source with labels for one task more; see :class:`~.label_source.LabelSource`.

    Args:
        source: Where the other labels come from.
        derivation: What to make from them.
    """

    def __init__(self, source: LabelSource, derivation: Derivation) -> None:
        super().__init__(source)
        register_task(derivation.task)
        self._derivation = derivation

    def load(self, index: int) -> dict[str, np.ndarray]:
        """Reads an image and its labels, the derived one among them where its origin exists."""
        found = super().load(index)
        origin, name = self._derivation.origin, self._derivation.task.name
        if origin in found:
            found[name], valid = self._derivation.make(found[origin])
            found[f"{name}.valid"] = valid & found.get(f"{origin}.valid", valid)
        return found

    def kind(self, index: int, task: str) -> str:
        """Returns the kind of a label; a derived one is as true as its origin."""
        return super().kind(index, self._origin(task))

    def measured_on(self, task: str, semantic: bool) -> Sequence[str]:
        """Returns the sources with the best labels."""
        return super().measured_on(self._origin(task), semantic)

    def _origin(self, task: str) -> str:
        return self._derivation.origin if task == self._derivation.task.name else task
