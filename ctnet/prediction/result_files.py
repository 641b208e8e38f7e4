"""The files of a prediction: their names, and how pictures are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from PIL import Image

from ctnet.outputs import png_mark
from ctnet.tasks import get_task

Files = Literal["labels", "pictures", "all"]
"""Which files of a prediction are written: labels and palette, pictures, or both."""

FILES: tuple[Files, ...] = get_args(Files)

LAST: dict[Files, str] = {"labels": "palette", "pictures": "composite", "all": "composite"}
"""The file that is written last: if it exists, the others are complete."""

COMPRESS_LEVEL = 1
"""Compression level of PNGs: a third of the time of Pillow's 6, for files a tenth larger."""


def save_png(picture: Image.Image, path: Path) -> None:
    """Writes a PNG that says that ctnet made it, quickly."""
    picture.save(path, pnginfo=png_mark(), compress_level=COMPRESS_LEVEL)


PICTURES = ("composite", "overlay")


def result_paths(
    directory: str | Path, name: str, tasks: Sequence[str], files: Files = "all"
) -> dict[str, Path]:
    """Returns the files that :meth:`ctnet.Prediction.save` writes.

    Args:
        directory: Their folder.
        name: Their stem.
        tasks: Tasks that are asked for.
        files: Which of them.

    Returns:
        The paths by content: ``composite``, ``overlay``, ``palette``, task names, and
        ``TASK_view`` for tasks whose labels are no picture to look at: probabilities and normals.
    """
    pictures = [*PICTURES, *(f"{task}_view" for task in tasks if needs_view(task))]
    suffixes = dict.fromkeys((*pictures, "palette"), "png")
    for task in tasks:
        suffixes[task] = "npy" if get_task(task).kind == "normals" else "png"
    return {
        key: Path(directory) / f"{name}_{key}.{suffix}"
        for key, suffix in suffixes.items()
        if files == "all" or (key in pictures) == (files == "pictures")
    }


def needs_view(task: str) -> bool:
    """Whether a task's labels are no picture to look at: probabilities and normals."""
    return get_task(task).kind != "classes"
