"""Label sources over label sources."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ctnet.data.label_source import LabelSource


def source_files(source: LabelSource, index: int) -> Sequence[Path]:
    """Returns the files that an image and its labels are read from; nothing if a source has none.

    Args:
        source: Photographs and labels. Its method ``files(index)``, which it need not have, says
            so.
        index: Which image.
    """
    files = getattr(source, "files", None)
    found: Sequence[Path] = () if files is None else files(index)
    return found


class WrappedSource:
    """A label source that gives what another one gives; see :class:`~.label_source.LabelSource`.

    Args:
        source: The other one.
    """

    def __init__(self, source: LabelSource) -> None:
        self._source = source
        self.name = source.name
        self.split = source.split

    @property
    def inner(self) -> LabelSource:
        """The source that this one is over."""
        return self._source

    @property
    def ids(self) -> Sequence[str]:
        """Names of the images."""
        return self._source.ids

    def load(self, index: int) -> dict[str, np.ndarray]:
        """Reads an image and its labels."""
        return self._source.load(index)

    def files(self, index: int) -> Sequence[Path]:
        """Returns the files that an image and its labels are read from."""
        return source_files(self._source, index)

    def origin(self, index: int) -> str:
        """Returns the name of the source that an image is from."""
        return self._source.origin(index)

    def kind(self, index: int, task: str) -> str:
        """Returns the kind of a label, empty where there is none."""
        return self._source.kind(index, task)

    def measured_on(self, task: str, semantic: bool) -> Sequence[str]:
        """Returns the sources with the best labels."""
        return self._source.measured_on(task, semantic)

    def annotators(self, index: int) -> list[np.ndarray] | None:
        """Returns the boundaries that each human drew, where they are known."""
        return self._source.annotators(index)


def quarter_of_memory() -> int:
    """Returns a quarter of the machine's memory in bytes; 4 GiB where it does not say."""
    if not hasattr(os, "sysconf"):
        return 4 << 30
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


class CachedSource(WrappedSource):
    """A label source that keeps decoded files in memory, for all that read it.

    Args:
        source: The one that reads them.
        most_bytes: Size from which on it keeps no more of them; None takes
            :func:`quarter_of_memory`.
    """

    def __init__(self, source: LabelSource, most_bytes: int | None = None) -> None:
        super().__init__(source)
        self._loaded: dict[int, dict[str, np.ndarray]] = {}
        self._free = quarter_of_memory() if most_bytes is None else most_bytes

    def load(self, index: int) -> dict[str, np.ndarray]:
        """Reads an image and its labels, each once as long as there is room to keep them."""
        kept = self._loaded.get(index)
        if kept is not None:
            return kept
        loaded = super().load(index)
        size = sum(array.nbytes for array in loaded.values())
        if size <= self._free:
            self._free -= size
            self._loaded[index] = loaded
        return loaded


class SubsetSource(WrappedSource):
    """Some of the photographs of a label source.

    Args:
        source: All of them.
        indices: Which ones.
        split: What they are called.
    """

    def __init__(self, source: LabelSource, indices: Sequence[int], split: str) -> None:
        super().__init__(source)
        self.split = split
        self._indices = list(indices)
        self._ids = [source.ids[index] for index in self._indices]

    @property
    def ids(self) -> Sequence[str]:
        """Names of the images."""
        return self._ids

    def load(self, index: int) -> dict[str, np.ndarray]:
        """Reads an image and its labels."""
        return super().load(self._indices[index])

    def files(self, index: int) -> Sequence[Path]:
        """Returns the files that an image and its labels are read from."""
        return super().files(self._indices[index])

    def origin(self, index: int) -> str:
        """Returns the name of the source that an image is from."""
        return super().origin(self._indices[index])

    def kind(self, index: int, task: str) -> str:
        """Returns the kind of a label, empty where there is none."""
        return super().kind(self._indices[index], task)

    def annotators(self, index: int) -> list[np.ndarray] | None:
        """Returns the boundaries that each human drew, where they are known."""
        return super().annotators(self._indices[index])
