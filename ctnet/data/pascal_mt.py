"""The original PASCAL-MT, laid out on disk as its authors publish it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ctnet.checks import did_you_mean
from ctnet.data.label_files import LabelError, read_photograph
from ctnet.tasks import COLOR_MAP_CLASSES, IGNORE, PART_CLASSES, VOC_CLASSES

FILES = {
    "seg": ("semantic_segmentation", ".png"),
    "parts": ("human_parts", ".png"),
    "edges": ("pascal-context/trainval", ".mat"),
    "saliency": ("saliency_distilled", ".png"),
    "normals": ("normals_distilled", ".png"),
}
"""Folder and suffix of the labels of each task."""


class PascalMT:
    """The photographs and labels of PASCAL-MT.

    A file that is missing is a missing label, as are human parts on images without people. Edges
    are the thinned boundaries of PASCAL-Context's regions; normals count only on classes that
    their teacher, trained on NYU, has seen.

    Args:
        root: The unzipped folder, which holds ``JPEGImages`` and ``ImageSets``.
        split: ``train`` or ``val``: a list in ``ImageSets/Context``.

    Raises:
        FileNotFoundError: If the folder, or a file that says how to read the labels, is missing.
        ValueError: If the split is unknown or empty, or such a file cannot be read.
    """

    name = "PASCAL-MT"

    def __init__(self, root: str | Path, split: str) -> None:
        self.root = Path(root).expanduser()
        self.split = split
        self.ids = self._read_split(split)
        voc_ids = [VOC_CLASSES.index(name) for name in COLOR_MAP_CLASSES]
        self._color_codes = {
            task: (self._read_colors(file, len(ids)), np.array(ids, np.uint8))
            for task, file, ids in (
                ("seg", "colourmap_seg21.txt", voc_ids),
                ("parts", "colourmap_parts7.txt", [*range(len(PART_CLASSES))]),
            )
            if self._folder(task).is_dir()
        }
        has_normals = self._folder("normals").is_dir()
        self._normals_classes = self._read_normals_classes() if has_normals else []

    def load(self, index: int) -> dict[str, npt.NDArray[Any]]:
        """Reads an image and the labels that exist, as :class:`~.label_source.LabelSource` has it.

        Raises:
            FileNotFoundError: If there is no such photograph.
            LabelError: If a file cannot be read, or a label is not of the photograph's size.
            ModuleNotFoundError: If the extra ``[train]`` is not installed.
        """
        name = self.ids[index]
        found: dict[str, npt.NDArray[Any]] = {
            "image": read_photograph(self.root / "JPEGImages" / f"{name}.jpg")
        }
        for task, (colors, ids) in self._color_codes.items():
            path = self._file(index, task)
            if path.is_file():
                found[task] = decode_colors(_read_image(path, "RGB"), colors, ids)
        if "parts" in found and not _shows_people(found["parts"]):
            del found["parts"]
        saliency = self._file(index, "saliency")
        if saliency.is_file():
            found["saliency"] = _read_image(saliency, "L")
        context = self._file(index, "edges")
        if context.is_file():
            regions = _read_regions(context)
            found["edges"] = region_boundaries(regions)
            normals = self._file(index, "normals")
            if normals.is_file():
                found["normals"] = _read_image(normals, "RGB")
                found["normals.valid"] = np.isin(regions, self._normals_classes)
        self._check_sizes(name, found)
        return found

    def files(self, index: int) -> list[Path]:
        """Returns the files that an image and its labels are read from."""
        labels = [self._file(index, task) for task in FILES]
        photograph = self.root / "JPEGImages" / f"{self.ids[index]}.jpg"
        return [photograph, *(path for path in labels if path.is_file())]

    def origin(self, index: int) -> str:
        """Returns the same name for all; see :class:`~.label_source.LabelSource`."""
        return "pascal"

    def kind(self, index: int, task: str) -> str:
        """Returns the kind of a label by the files; see :class:`~.label_source.LabelSource`."""
        there = task in FILES and self._file(index, task).is_file()
        if not there or (task == "normals" and not self.kind(index, "edges")):
            return ""
        return "distilled" if task in ("saliency", "normals") else "true"

    def measured_on(self, task: str, semantic: bool) -> Sequence[str]:
        """Returns the sources with the best labels; see :class:`~.label_source.LabelSource`."""
        return ("pascal",)

    def annotators(self, index: int) -> None:
        """Nobody drew these boundaries; see :class:`~.label_source.LabelSource`."""

    def _folder(self, task: str) -> Path:
        return self.root / FILES[task][0]

    def _file(self, index: int, task: str) -> Path:
        return self._folder(task) / f"{self.ids[index]}{FILES[task][1]}"

    def _read_split(self, split: str) -> Sequence[str]:
        folder = self.root / "ImageSets" / "Context"
        for path in (folder, self.root / "JPEGImages"):
            if not path.is_dir():
                raise FileNotFoundError(
                    f"no folder {path}: give the folder that PASCAL_MT.zip unpacks to."
                )
        splits = {path.stem: path for path in sorted(folder.glob("*.txt"))}
        if split not in splits:
            raise ValueError(f"PASCAL-MT has no split {split!r}{did_you_mean(split, splits)}")
        ids = splits[split].read_text("utf-8").split()
        if not ids:
            raise ValueError(f"{splits[split]} lists no images.")
        return ids

    def _read_colors(self, file: str, rows: int) -> npt.NDArray[np.uint8]:
        """Reads the RGB color of each row; the files list blue, green, red."""
        path = self.root / "colourmaps" / file
        if not path.is_file():
            raise FileNotFoundError(f"no color map {path}: color-coded labels cannot be read.")
        try:
            values = np.loadtxt(path, ndmin=2)
        except ValueError as error:
            raise ValueError(f"{path} is no table of colors: {error}") from error
        colors = np.clip(values, 0, 255).astype(np.uint8)
        if values.shape != (rows, 3) or (colors != values).any():
            raise ValueError(
                f"{path} must hold {rows} rows of three whole numbers from 0 to 255; got a table "
                f"of {' x '.join(map(str, values.shape))}."
            )
        return colors[:, ::-1]

    def _read_normals_classes(self) -> list[int]:
        """Returns the PASCAL-Context ids on which the distilled normals can be trusted."""
        tables = []
        for file in ("context_classes.json", "nyu_classes.json"):
            path = self.root / "json" / file
            if not path.is_file():
                raise FileNotFoundError(f"no class list {path}: normals cannot be read.")
            tables.append(json.loads(path.read_text("utf-8")))
        context, nyu = tables
        # NYU names what PASCAL-Context calls a tvmonitor a television.
        shared = {*context} & {*nyu, "tvmonitor"} - {"unknown"}
        return sorted(int(context[name]) for name in shared)

    def _check_sizes(self, name: str, found: dict[str, npt.NDArray[Any]]) -> None:
        size = found["image"].shape[:2]
        for task, label in found.items():
            if label.shape[:2] != size:
                raise LabelError(
                    f"{task} of {name} in {self.root} is {label.shape[:2]}, its photograph {size}."
                )


def decode_colors(
    picture: npt.NDArray[np.uint8], colors: npt.NDArray[np.uint8], ids: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Reads a color-coded class map.

    Args:
        picture: RGB (H,W,3).
        colors: RGB of each class (C,3).
        ids: Class id of each color (C,).

    Returns:
        Class ids (H,W), 255 = not labeled where the color is none of ``colors``.
    """
    base = np.array([1 << 16, 1 << 8, 1])
    order = np.argsort(colors @ base)
    keys = (colors @ base)[order]
    codes = picture @ base
    nearest_key = np.searchsorted(keys, codes).clip(max=len(keys) - 1)
    return np.where(keys[nearest_key] == codes, ids[order][nearest_key], np.uint8(IGNORE))


def region_boundaries(regions: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint8]:
    """Draws the boundaries between regions.

    Args:
        regions: Region ids (H,W).

    Returns:
        255 on boundaries (H,W), one pixel wide, 0 elsewhere.
    """
    thick = _import("skimage.segmentation").find_boundaries(regions, connectivity=1, mode="thick")
    thin = _import("skimage.morphology").thin(thick)
    return np.where(thin, np.uint8(255), np.uint8(0))


def _shows_people(parts: npt.NDArray[np.uint8]) -> bool:
    return bool(((parts > 0) & (parts != IGNORE)).any())


def _read_image(path: Path, mode: str) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.array(image.convert(mode))
    except (OSError, SyntaxError, ValueError) as error:
        raise LabelError(f"{path} cannot be read: it is damaged or no picture ({error}).") from None


def _read_regions(path: Path) -> npt.NDArray[np.integer[Any]]:
    content = _import("scipy.io").loadmat(path)
    if "LabelMap" not in content:
        raise ValueError(f"{path} has no variable LabelMap.")
    return np.asarray(content["LabelMap"]).astype(np.int32)


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"PASCAL-MT's regions need {module.split('.')[0]}: pip install 'ctnet[train]'"
        ) from error
