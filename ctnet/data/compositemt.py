"""CompositeMT-mini: real photographs with labels for all five tasks, from ten sources."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

BEST_SOURCES = {
    "seg": ("voc", "coco"),
    "parts": ("voc", "coco", "ccp"),
    "edges": ("bsds",),
    "saliency": ("ecssd",),
    "normals": ("nyu",),
}
"""Where the labels of each task are best."""

SEMANTIC_SOURCES = {**BEST_SOURCES, "edges": ("voc", "coco"), "saliency": ("voc", "coco")}
"""The same with a class map throughout; labels of edges and saliency are distilled there."""


SOURCE_NAMES = (
    "voc", "coco", "nyu", "ccp", "ecssd", "bsds", "caltech", "camvid", "inet", "coco5",
)  # fmt: skip
"""All sources; the last four have photographs for training alone."""


class CompositeMTMini:
    """The photographs and labels of CompositeMT-mini, unpacked into one folder.

    Args:
        root: The folder with the unpacked shards and ``index.csv``.
        split: ``train`` or ``val``.
        sources: Keep only these sources, some of :data:`SOURCE_NAMES`.

    Raises:
        FileNotFoundError: If the folder has no index.
        ValueError: If nothing is left of the split.
    """

    name = "CompositeMT-mini"
    unlabelled_edges = 128

    def __init__(self, root: str | Path, split: str, sources: Sequence[str] | None = None) -> None:
        self.root = Path(root).expanduser()
        self.split = split
        index = self.root / "index.csv"
        if not index.is_file():
            raise FileNotFoundError(
                f"no index.csv in {self.root}: unpack the shards of the data set there and copy "
                "its index.csv beside them."
            )
        with index.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
        self.rows = [row for row in rows if sources is None or row["source"] in sources]
        if not self.rows:
            raise ValueError(f"{index} lists nothing for split {split!r}, sources {sources}.")
        self.ids = [row["id"] for row in self.rows]

    def origin(self, index: int) -> str:
        """Returns the source's name, one of :data:`SOURCE_NAMES`."""
        return self.rows[index]["source"]

    def kind(self, index: int, task: str) -> str:
        """Returns ``true``, ``distilled`` or, where there is no label, an empty string."""
        return self.rows[index].get(task) or ""

    def load(self, index: int) -> dict[str, np.ndarray]:
        """Reads an image and the labels that exist; see :class:`~.datasets.LabelSource`."""
        row = self.rows[index]
        found = {"image": self._read(f"{row['id']}.image.jpg", "RGB")}
        for task in ("seg", "parts", "saliency", "normals", "edges"):
            label = self.label(index, task)
            if label is not None:
                found[task] = label
        if "edges" in found and row["source"] == "nyu":
            found["edges.valid"] = found["edges"] != self.unlabelled_edges
        return found

    def label(self, index: int, task: str) -> np.ndarray | None:
        """Reads one label, as :meth:`load` gives it; None where there is none."""
        row = self.rows[index]
        if not row.get(task):
            return None
        name = f"{row['id']}.{task}"
        smooth = task in ("saliency", "normals")
        # Soft edges are stored as JPEG.
        if task == "edges":
            smooth = not (self.root / f"{name}.png").exists()
        return self._read(
            f"{name}.{'jpg' if smooth else 'png'}", "RGB" if task == "normals" else "L"
        )

    def teacher_file(self, index: int) -> Path:
        """Returns where the teacher's class map of a train photograph lies; see ``teacher``."""
        return self.root / f"{self.ids[index]}.segteacher.png"

    def teacher(self, index: int) -> np.ndarray:
        """Reads the class ids (H,W) that a network trained on VOC saw, 255 where it is unsure.

        Raises:
            FileNotFoundError: If there is no such file; val has none.
        """
        return self._read(self.teacher_file(index).name, "L")

    def measured_on(self, task: str, semantic: bool) -> Sequence[str]:
        """Returns the sources with the best labels; see :class:`~.datasets.LabelSource`."""
        return (SEMANTIC_SOURCES if semantic else BEST_SOURCES).get(task, ())

    def annotators(self, index: int) -> list[np.ndarray] | None:
        """Returns the boundaries (H,W) that each human drew, where they are known."""
        row = self.rows[index]
        if not row["annotators"]:
            return None
        with Image.open(self.root / f"{row['id']}.annotators.png") as image:
            return decode_annotators(np.array(image), int(row["annotators"]))

    def _read(self, name: str, mode: str) -> np.ndarray:
        with Image.open(self.root / name) as image:
            keep = image.mode in (mode, "P")
            return np.array(image if keep else image.convert(mode))


def decode_annotators(mask: ArrayLike, count: int) -> list[NDArray[np.bool_]]:
    """Split a 16-bit mask whose bit k is annotator k's boundary.

    Args:
        mask: (H, W) integers in [0, 65535], as read from ``ID.annotators.png``.
        count: number of annotators, 1 to 16.

    Returns:
        ``count`` masks, (H, W) bool, in the order of the bits.

    Raises:
        ValueError: ``mask`` is not a 2-D integer array, ``count`` is out of range, or a bit at or
            above ``count`` is set.
    """
    bits = np.asarray(mask)
    if bits.ndim != 2 or bits.dtype.kind not in "iu":
        raise ValueError(
            f"mask has shape {bits.shape} and type {bits.dtype}; (H, W) integers are needed"
        )
    if not 1 <= count <= 16:
        raise ValueError(f"count is {count}; a 16-bit mask holds 1 to 16 annotators")
    if bits.size and (bits.min() < 0 or bits.max() >= 1 << count):
        raise ValueError(
            f"mask has values from {bits.min()} to {bits.max()}; {count} annotators give 0 to "
            f"{(1 << count) - 1}"
        )
    return [(bits >> k & 1).astype(bool) for k in range(count)]
