"""CompositeMT-mini: real photographs with labels for all five tasks, from ten sources."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ctnet.data.label_files import (
    LabelError,
    NoPhotographsError,
    check_sizes,
    read_class_map,
    read_label,
    read_photograph,
)
from ctnet.tasks import TaskName, get_task, known_tasks

BEST_SOURCES = {
    "seg": ("voc", "coco"),
    "parts": ("voc", "coco", "ccp"),
    "edges": ("bsds",),
    "saliency": ("ecssd",),
    "normals": ("nyu",),
}
"""Where the labels of each task are best."""

SEMANTIC_SOURCES = {**BEST_SOURCES, "edges": ("voc", "coco"), "saliency": ("voc", "coco")}
"""The same for sources with class maps throughout; edges and saliency are distilled there."""


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
        tasks: Names of tasks that may have labels, where they know their task
            (:class:`ctnet.tasks.TaskName`), beside those that are known anyway.

    Attributes:
        tasks: Tasks that have a column in the index, those of the user's own among them: their
            labels are ``ID.TASK.png``, or ``.jpg`` where that is missing and there are no classes.

    Raises:
        FileNotFoundError: If the folder has no index.
        ValueError: If nothing is left of the split, or the index lacks a column.
    """

    name = "CompositeMT-mini"
    unlabeled_edges = 128

    def __init__(
        self,
        root: str | Path,
        split: str,
        sources: Sequence[str] | None = None,
        tasks: Sequence[str] = (),
    ) -> None:
        self.root = Path(root).expanduser()
        self.split = split
        index = self.root / "index.csv"
        if not index.is_file():
            raise FileNotFoundError(
                f"no index.csv in {self.root}: unpack the shards of the data set there and copy "
                "its index.csv beside them."
            )
        rows = [row for row in read_index(index) if row["split"] == split]
        self.rows = [row for row in rows if sources is None or row["source"] in sources]
        if not self.rows:
            raise NoPhotographsError(
                f"{index} lists nothing for split {split!r}, sources {sources}."
            )
        self.ids = [row["id"] for row in self.rows]
        known = map(TaskName, known_tasks(tasks).values())
        self.tasks: tuple[str, ...] = tuple(name for name in known if name in rows[0])

    def origin(self, index: int) -> str:
        """Returns the source's name: one of :data:`SOURCE_NAMES`, or another of the index."""
        return self.rows[index]["source"]

    def kind(self, index: int, task: str) -> str:
        """Returns ``true``, ``distilled`` or, where there is no label, an empty string."""
        return self.rows[index].get(task) or ""

    def load(self, index: int) -> dict[str, np.ndarray]:
        """Reads an image and the labels that exist; see :class:`~.label_source.LabelSource`.

        Raises:
            FileNotFoundError: If a file is missing.
            LabelError: If a file cannot be read or used; the message names it.
        """
        photograph = self.root / f"{self.ids[index]}.image.jpg"
        found: dict[str, np.ndarray] = {"image": read_photograph(photograph)}
        files = {t: self._label_file(index, t) for t in self.tasks if self.kind(index, t)}
        for task, path in files.items():
            found[task] = read_label(path, get_task(task))
        check_sizes(photograph, found, files)
        if "edges" in found and self.origin(index) == "nyu":
            found["edges.valid"] = found["edges"] != self.unlabeled_edges
        return found

    def label(self, index: int, task: str) -> np.ndarray | None:
        """Reads one label, as :meth:`load` gives it; None where there is none."""
        if not self.kind(index, task):
            return None
        return read_label(self._label_file(index, task), get_task(task))

    def files(self, index: int) -> list[Path]:
        """Returns the files that an image and its labels are read from."""
        labels = [self._label_file(index, t) for t in self.tasks if self.kind(index, t)]
        return [self.root / f"{self.ids[index]}.image.jpg", *labels]

    def teacher_file(self, index: int) -> Path:
        """Returns where the teacher's class map of a train photograph lies; see ``teacher``."""
        return self.root / f"{self.ids[index]}.segteacher.png"

    def teacher(self, index: int) -> np.ndarray:
        """Reads the class ids (H,W) that a network trained on VOC saw, 255 where it is unsure.

        Raises:
            FileNotFoundError: If there is no such file; val has none.
            LabelError: If it cannot be read or used.
        """
        return read_class_map(self.teacher_file(index), get_task("seg"))

    def measured_on(self, task: str, semantic: bool) -> Sequence[str]:
        """Returns the sources with the best labels; see :class:`~.label_source.LabelSource`.

        Sources of the user's own are as good as the best; where none of these has the task, all
        that have it are taken.
        """
        best = (SEMANTIC_SOURCES if semantic else BEST_SOURCES).get(task, ())
        needed = {task, "seg"} if semantic else {task}
        there = {row["source"] for row in self.rows if all(row.get(name) for name in needed)}
        own = sorted(there - set(SOURCE_NAMES))
        if there & {*best, *own}:
            return (*best, *own)
        return tuple(sorted(there)) or best

    def annotators(self, index: int) -> list[np.ndarray] | None:
        """Returns the boundaries (H,W) that each human drew, where they are known."""
        row = self.rows[index]
        if not row.get("annotators"):
            return None
        path = self.root / f"{row['id']}.annotators.png"
        with Image.open(path) as image:
            try:
                return decode_annotators(np.array(image), int(row["annotators"]))
            except ValueError as error:
                raise LabelError(f"{path}: {error}") from None

    def _label_file(self, index: int, task: str) -> Path:
        """Finds the file of a label: strengths may be JPEG, normals are unless there is a PNG."""
        path = self.root / f"{self.ids[index]}.{task}.png"
        if get_task(task).kind != "classes" and not path.exists():
            return path.with_suffix(".jpg")
        return path


def read_index(path: Path) -> list[dict[str, str]]:
    """Reads the table of photographs: the columns ``id`` and ``split``, and what else there is.

    Commas or semicolons separate the columns; a byte-order mark is passed over. Without a column
    ``source`` all photographs are of one, called ``own``.

    Raises:
        ValueError: If a column is missing, or a line has more or fewer columns than the first.
    """
    text = path.read_text("utf-8-sig")
    first = text.partition("\n")[0]
    reader = csv.DictReader(
        text.splitlines(), delimiter=";" if ";" in first and "," not in first else ","
    )
    names = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = names
    missing = [name for name in ("id", "split") if name not in names]
    if missing:
        raise ValueError(
            f"{path} has no column {' and no column '.join(missing)}; its columns are "
            f"{', '.join(names) or 'none'}."
        )
    rows = []
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(
                f"{path}, line {reader.line_num}: other than the {len(names)} columns of the first "
                "line."
            )
        row = {name: value.strip() for name, value in row.items()}
        if not row["id"]:
            raise ValueError(f"{path}, line {reader.line_num}: no id.")
        rows.append({"source": "own"} | row)
    return rows


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
