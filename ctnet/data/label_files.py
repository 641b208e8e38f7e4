"""Reads photographs and labels from files, and refuses by name what would be read wrongly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ctnet.images import RGB, load_image
from ctnet.palette import unknown_ids
from ctnet.tasks import IGNORE, Color, TaskSpec

VOID: Color = (224, 224, 192)
"""Color of the pixels that VOC's class maps leave out."""

Decode = Callable[[npt.NDArray[np.integer[Any]]], npt.NDArray[np.uint8]]
"""Turns the values of a mask into class ids."""

_WIDE = ("I", "I;16", "I;16B", "I;16L", "I;16N")
"""Modes of pictures of more than 8 bits."""


class NoPhotographsError(ValueError):
    """A split of a data set without photographs."""


class LabelError(ValueError):
    """A photograph or label that cannot be used; the message names the file in one line.

    A worker of a data loader passes its whole traceback on as the message: what stands before the
    error itself is left out.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


def read_photograph(path: Path) -> RGB:
    """Reads a photograph, turned as its EXIF orientation says: RGB (H,W,3) uint8.

    Raises:
        FileNotFoundError: If there is no such file.
        LabelError: If it cannot be read.
    """
    try:
        return load_image(path)
    except ValueError as error:
        raise LabelError(str(error)) from None


def read_class_map(path: Path, task: TaskSpec) -> npt.NDArray[np.uint8]:
    """Reads class ids (H,W), 255 = not labeled.

    Ids are those of an indexed, gray (8 or 16 bits) or black-and-white picture. A picture in the
    colors of the task's classes, for ``seg`` those of VOC, is read by them; so is an indexed one
    whose table has these colors in another order.

    Raises:
        FileNotFoundError: If there is no such file.
        LabelError: If it cannot be read, has other colors, or ids that no class has.
    """
    picture = _open(path)
    if picture.mode in ("P", "PA", "RGB", "RGBA"):
        ids = _by_color(picture, task)
        if ids is not None:
            return ids
    if picture.mode not in ("P", "L", "1", *_WIDE):
        raise LabelError(
            f"{path} is a picture of mode {picture.mode} in colors that are not those of the "
            f"classes of {task.name}; a class map is an indexed or gray picture of class ids, 255 "
            "where nothing is labeled."
        )
    values = np.array(picture)
    # What is not labeled, in 16 bits.
    wide = values if values.dtype.itemsize == 1 else np.where(values == 65535, IGNORE, values)
    unknown = unknown_ids(wide, len(task.classes))
    if unknown:
        raise LabelError(
            f"{path} has the class ids {', '.join(map(str, unknown[:5]))}; {task.name} has "
            f"{len(task.classes)} classes, 0 to {len(task.classes) - 1}, and 255 where nothing is "
            "labeled."
        )
    found: npt.NDArray[np.uint8] = wide.astype(np.uint8)
    return found


def read_mask(path: Path, task: TaskSpec, decode: Decode) -> npt.NDArray[np.uint8]:
    """Reads class ids (H,W), 255 = not labeled, from a mask whose values are your own.

    Args:
        path: An indexed or gray picture of values, or one in the colors of the classes.
        task: The task.
        decode: Turns values (H,W) into class ids; raises ValueError where one has no class.

    Raises:
        FileNotFoundError: If there is no such file.
        LabelError: If it cannot be read, has other colors, or values that no class has.
    """
    picture = _open(path)
    if picture.mode in ("P", "L", "1", *_WIDE):
        values = np.array(picture).astype(np.int64)
        wide = picture.mode in _WIDE
        try:
            return decode(np.where(values == 65535, IGNORE, values) if wide else values)
        except ValueError as error:
            by_color = _by_color(picture, task) if picture.mode == "P" else None
            if by_color is None:
                raise LabelError(f"{path} {error}") from None
            return by_color
    return read_class_map(path, task)


def read_strength(path: Path) -> npt.NDArray[np.uint8]:
    """Reads a strength (H,W), such as that of saliency or edges: 0 to 255.

    Raises:
        FileNotFoundError: If there is no such file.
        LabelError: If it cannot be read, or has colors.
    """
    picture = _open(path)
    values = np.array(picture)
    if picture.mode in _WIDE:
        found: npt.NDArray[np.uint8] = np.rint(values.clip(0, 65535) / 257).astype(np.uint8)
        return found
    if picture.mode in ("L", "1"):
        return np.array(picture.convert("L"))
    colors = np.array(picture.convert("RGB"))
    if (colors != colors[..., :1]).any():
        raise LabelError(f"{path} has colors; a strength is a gray picture, 255 for the most.")
    return np.ascontiguousarray(colors[..., 0])


def read_normals(path: Path) -> RGB:
    """Reads normals (H,W,3) as (n + 1) / 2 * 255.

    Raises:
        FileNotFoundError: If there is no such file.
        LabelError: If it cannot be read, or is no RGB picture.
    """
    picture = _open(path)
    if picture.mode not in ("RGB", "RGBA"):
        raise LabelError(
            f"{path} is a picture of mode {picture.mode}; normals are an RGB picture of "
            "(n + 1) / 2 * 255."
        )
    return np.array(picture.convert("RGB"))


def read_label(path: Path, task: TaskSpec) -> npt.NDArray[np.uint8]:
    """Reads a label of any task: see the reader of its kind."""
    if task.kind == "classes":
        return read_class_map(path, task)
    return read_strength(path) if task.kind == "probability" else read_normals(path)


def check_sizes(
    photograph: Path, found: Mapping[str, npt.NDArray[Any]], files: Mapping[str, Path]
) -> None:
    """Checks that labels have the size of their photograph.

    Args:
        photograph: Its file.
        found: The ``image`` and its labels, by task.
        files: The file of each label.

    Raises:
        LabelError: If one has another.
    """
    height, width = found["image"].shape[:2]
    for task, path in files.items():
        if found[task].shape[:2] != (height, width):
            high, wide = found[task].shape[:2]
            raise LabelError(
                f"{path} has {high} x {wide} pixels, its photograph {photograph} has {height} x "
                f"{width}."
            )


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except FileNotFoundError:
        raise
    except Exception as error:  # Whatever a damaged file makes a decoder raise.
        raise LabelError(f"{path} cannot be read: it is damaged or no picture ({error}).") from None


def _by_color(picture: Image.Image, task: TaskSpec) -> npt.NDArray[np.uint8] | None:
    """Reads class ids by the colors of the classes; None where there are other colors."""
    keys = {_key(color): number for number, color in enumerate(task.class_colors)}
    if len(keys) < len(task.classes):
        return None
    keys[_key(VOID)] = keys[_key((255, 255, 255))] = IGNORE
    rgba = np.array(picture.convert("RGBA"))
    codes = rgba[..., :3].astype(np.int32) @ np.array([1 << 16, 1 << 8, 1])
    values, places = np.unique(codes, return_inverse=True)
    if not all(int(value) in keys for value in values):
        return None
    ids = np.array([keys[int(value)] for value in values], np.uint8)
    found = ids[places].reshape(codes.shape)
    return np.where(rgba[..., 3] < 128, np.uint8(IGNORE), found)


def _key(color: Color) -> int:
    red, green, blue = color
    return (red << 16) + (green << 8) + blue
