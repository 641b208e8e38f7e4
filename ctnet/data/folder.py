"""A folder as a data set: photographs, and a folder of labels for each task, by equal stems.

::

    DATA/images/*.jpg, *.png, *.webp, ...
    DATA/seg/*.png, DATA/parts/*.png        class maps
    DATA/edges/*.png, DATA/saliency/*.png   strengths, 255 for the most
    DATA/normals/*.png                      (n + 1) / 2 * 255
    DATA/clothing/*.png                     class maps of a task of your own
    DATA/classes.toml                       optional: what the values of masks mean
    DATA/val.txt                            optional: stems to validate on, one a line
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ctnet.data.classes_file import CLASSES_FILE, MaskCode, create_task, read_classes
from ctnet.data.label_files import (
    NoPhotographsError,
    check_sizes,
    read_label,
    read_mask,
    read_photograph,
)
from ctnet.images import SUFFIXES
from ctnet.tasks import IGNORE, Color, TaskName, TaskSpec, known_tasks

IMAGES = "images"
"""Folder of the photographs."""

VAL_FILE = "val.txt"

VAL_SHARE = 0.15
"""Share of the photographs that is for validation where there is no ``val.txt``."""

ORIGIN = "own"
"""What the photographs' source is called."""

LABEL_SUFFIXES = (".png", ".jpg", ".jpeg")
"""File extensions of labels; class maps must be PNG, because JPEG changes values."""


@dataclass(frozen=True)
class Problem:
    """A file, or a set of them, that cannot be used.

    Attributes:
        path: The file or folder.
        text: What is wrong with it.
    """

    path: Path
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


class FolderSource:
    """The photographs and labels of a folder; see the module's docstring.

    Args:
        root: The folder.
        split: ``train`` or ``val``.
        val_share: Share of the photographs that is for validation where there is no ``val.txt``,
            the same ones each time; None takes :data:`VAL_SHARE`.
        tasks: Names of tasks that may have labels, where they know their task
            (:class:`ctnet.tasks.TaskName`), beside those that are known anyway.

    Attributes:
        codes: How the masks of each task are read, by its name.
        problems: What is wrong with the names of the files; what is in them shows when they are
            read (:func:`ctnet.data.check.check_data`).

    Raises:
        FileNotFoundError: If the folder has no photographs.
        ValueError: If there are no labels, or the names of files or the classes cannot be
            understood.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        val_share: float | None = None,
        tasks: Sequence[str] = (),
    ) -> None:
        if split not in ("train", "val"):
            raise ValueError(f"unknown split {split!r}; allowed: train, val.")
        self.root = Path(root).expanduser()
        self._known = known_tasks(tasks)
        self.name, self.split = self.root.resolve().name, split
        if not (self.root / IMAGES).is_dir():
            raise FileNotFoundError(f"no folder {IMAGES} with photographs in {self.root}.")
        self.problems: list[Problem] = []
        images = self._by_stem(self.root / IMAGES, tuple(SUFFIXES))
        if not images:
            raise FileNotFoundError(f"{self.root / IMAGES} holds no photographs.")
        self._images = images
        declared = read_classes(self.root / CLASSES_FILE)
        self._files = self._find_labels(images, declared)
        if not self._files:
            raise ValueError(
                f"{self.root} has no labels: folders such as {self.root / 'seg'} with a file for "
                f"each photograph, of the same stem."
            )
        codes = [self._code(name, declared) for name in self._files]
        self.codes: dict[str, MaskCode] = {TaskName(code.task): code for code in codes}
        self._files = dict(zip(self.codes, self._files.values(), strict=True))
        labeled = sorted(set().union(*self._files.values()))
        chosen = self._validation(labeled, VAL_SHARE if val_share is None else val_share)
        self.ids = [stem for stem in labeled if (stem in chosen) == (split == "val")]
        if not self.ids:
            raise NoPhotographsError(
                f"{self.root} has no photographs with labels for {split} ({len(labeled)} in all)."
            )

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that have labels."""
        return tuple(self.codes)

    @property
    def specs(self) -> dict[str, TaskSpec]:
        """The tasks that have labels, by name; those of your own among them."""
        return {name: code.task for name, code in self.codes.items()}

    def load(self, index: int) -> dict[str, npt.NDArray[Any]]:
        """Reads an image and the labels that exist; see :class:`~.label_source.LabelSource`.

        Raises:
            LabelError: If a file cannot be read or used; the message names it.
        """
        stem = self.ids[index]
        found: dict[str, npt.NDArray[Any]] = {"image": read_photograph(self._images[stem])}
        files = {task: there[stem] for task, there in self._files.items() if stem in there}
        for task, path in files.items():
            found[task] = self._read(path, task)
        check_sizes(self._images[stem], found, files)
        return found

    def files(self, index: int) -> list[Path]:
        """Returns the files that an image and its labels are read from."""
        stem = self.ids[index]
        labels = [there[stem] for there in self._files.values() if stem in there]
        return [self._images[stem], *labels]

    def origin(self, index: int) -> str:
        """Returns ``own``."""
        return ORIGIN

    def kind(self, index: int, task: str) -> str:
        """Returns ``true`` or, where there is no label, an empty string."""
        return "true" if self.ids[index] in self._files.get(task, ()) else ""

    def measured_on(self, task: str, semantic: bool) -> Sequence[str]:
        """Returns the only source."""
        return (ORIGIN,)

    def annotators(self, index: int) -> None:
        """Returns nothing: boundaries are compared with the label."""

    def _read(self, path: Path, task: str) -> npt.NDArray[np.uint8]:
        code = self.codes[task]
        if code.task.kind != "classes":
            return read_label(path, code.task)
        return read_mask(path, code.task, code.decode)

    def _by_stem(self, folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
        """Lists the files of a folder by stem; two of one stem are a problem."""
        found: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or path.suffix.lower() not in suffixes:
                continue
            if path.stem in found:
                self.problems.append(
                    Problem(path, f"has the stem of {found[path.stem].name}, which is taken")
                )
            found.setdefault(path.stem, path)
        return found

    def _find_labels(
        self, images: dict[str, Path], declared: dict[str, MaskCode]
    ) -> dict[str, dict[str, Path]]:
        found = {}
        for folder in sorted(self.root.iterdir()):
            if not folder.is_dir() or folder.name == IMAGES or folder.name.startswith("."):
                continue
            there = self._by_stem(folder, LABEL_SUFFIXES)
            for stem in [stem for stem in there if stem not in images]:
                self.problems.append(Problem(there.pop(stem), "has no photograph of its stem"))
            if there:
                found[folder.name] = there
        for name in declared:
            if name not in found:
                raise ValueError(
                    f"{self.root / CLASSES_FILE} declares {name}, but {self.root / name} has no "
                    "labels."
                )
        return found

    def _code(self, name: str, declared: dict[str, MaskCode]) -> MaskCode:
        code = declared.get(name)
        if code is None and name in self._known:
            ids = tuple(range(len(self._known[name].classes)))
            code = MaskCode(self._known[name], ids, ids)
        if code is None:
            code = self._guess(name)
        if code.task.kind == "classes":
            for path in self._files[name].values():
                if path.suffix.lower() != ".png":
                    self.problems.append(Problem(path, "is no PNG; JPEG changes class ids"))
        return code

    def _guess(self, name: str) -> MaskCode:
        """Reads the classes of a task off its masks: the ids that there are."""
        if not name.isidentifier():
            raise ValueError(
                f"{self.root / name}: a task's folder has a name of letters, digits and "
                f"underscores, such as {''.join(c if c.isalnum() else '_' for c in name)!r}."
            )
        used: set[int] = set()
        colors: list[Color] = []
        for path in self._files[name].values():
            try:
                with Image.open(path) as picture:
                    if picture.mode not in ("P", "L", "1"):
                        raise ValueError(
                            f"{path} has the mode {picture.mode}: say in "
                            f"{self.root / CLASSES_FILE} which classes {name} has and in which "
                            "colors."
                        )
                    used.update(np.unique(np.array(picture)).tolist())
                    table = picture.getpalette() or []
            except OSError:
                continue
            if len(table) > len(colors) * 3:
                colors = [(r, g, b) for r, g, b in zip(*[iter(table)] * 3, strict=False)]
        count = max(used - {IGNORE}, default=-1) + 1
        if count < 2:
            raise ValueError(
                f"the masks in {self.root / name} have {'no class' if not count else 'one class'}: "
                "a task needs two classes or more."
            )
        names = tuple(f"{name} {number}" for number in range(count))
        own = tuple(colors[:count]) if len(set(colors[:count])) == count else None
        task = create_task(name, names, own)
        return MaskCode(task, tuple(range(count)), tuple(range(count)))

    def _validation(self, labeled: Sequence[str], share: float) -> set[str]:
        if not 0 <= share < 1:
            raise ValueError(f"val_share must be at least 0 and below 1; got {share}.")
        path = self.root / VAL_FILE
        if not path.is_file():
            ordered = sorted(labeled, key=lambda stem: hashlib.sha256(stem.encode()).digest())
            count = round(share * len(labeled))
            return set(ordered[: max(count, 1) if share and len(labeled) > 1 else 0])
        lines = (line.strip() for line in path.read_text("utf-8-sig").splitlines())
        stems = {
            Path(line).stem if Path(line).suffix in SUFFIXES else line for line in lines if line
        }
        for stem in sorted(stems - set(self._images)):
            self.problems.append(Problem(path, f"lists {stem!r}, which is no photograph"))
        for stem in sorted((stems & set(self._images)) - set(labeled)):
            self.problems.append(Problem(path, f"lists {stem!r}, which has no label"))
        return stems


def is_folder_layout(root: Path) -> bool:
    """Whether a folder looks like this layout."""
    return (root / IMAGES).is_dir()
