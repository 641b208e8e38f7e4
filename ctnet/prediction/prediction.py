"""Predictions: labels, class probabilities, pictures and files of an image."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ctnet.checks import did_you_mean
from ctnet.images import RGB
from ctnet.labels import Readers, task_values
from ctnet.palette import Palette
from ctnet.prediction import colors, drawing
from ctnet.prediction.resampling import enlarge_probabilities
from ctnet.prediction.result_files import FILES, LAST, Files, result_paths, save_png
from ctnet.tasks import TaskSpec, get_task, known_tasks

Label = npt.NDArray[Any]

THREADS = 2
"""Files that are written at a time: Pillow encodes without holding Python's lock."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """The outputs of a network at its working size.

    Attributes:
        composite: Raw outputs (h,w,3) float32, on the CPU.
        palette: The palette at that size.
        readers: What reads the classes of each task.
    """

    composite: Tensor
    palette: Palette
    readers: Readers


@dataclass(frozen=True, eq=False)
class Prediction:
    """The outputs of a network at the size of the image.

    Attributes:
        image: The photograph (H,W,3) uint8 RGB.
        palette: What was asked for where.
        labels: By task name, for the tasks asked for: class ids (H,W) uint8, 255 where not asked;
            probabilities (H,W) float32 in [0, 1], 0 where not asked; unit normals (H,W,3) float32
            (x right, y up, z towards the camera), 0 where not asked.
        name: Stem of the files that :meth:`save` writes.
        outputs: What the network gave; :meth:`probabilities` reads it.
    """

    image: RGB
    palette: Palette
    labels: Mapping[str, Label]
    name: str = "image"
    outputs: Outputs | None = None

    def probabilities(self, task: str) -> npt.NDArray[np.float32]:
        """Returns the probability of each class at each pixel.

        They are those of the network's label table, counted on labeled photographs, or, for a task
        without a table, the softmax of the scores of eq. 5, which are no frequencies.

        Args:
            task: Name of a task of kind ``classes`` that the palette asks for.

        Returns:
            Probabilities (H,W,C) float32 that sum to 1 where the task is asked, 0 elsewhere. The
            likeliest class is the label.

        Raises:
            ValueError: If the task is of another kind or was not asked for, or the prediction was
                made without raw outputs.
        """
        spec = known_tasks(self.palette.tasks).get(task) or get_task(task)
        if spec.kind != "classes":
            raise ValueError(
                f"{task} has no classes; its labels are "
                f"{'probabilities already' if spec.kind == 'probability' else 'unit vectors'}."
            )
        if task not in self.labels:
            raise ValueError(
                f"the palette does not ask for {task!r}{did_you_mean(task, self.labels)}"
            )
        if self.outputs is None:
            raise ValueError("this prediction was made without the network's raw outputs.")
        pixels, working = self.outputs.composite, self.outputs.palette
        cells = torch.from_numpy(working.mask(task))
        if working.size != self.palette.size:
            wanted = self.palette.mask(task)
            return enlarge_probabilities(pixels, cells, wanted, spec, self.outputs.readers)
        full = torch.zeros(*cells.shape, len(spec.classes))
        full[cells] = task_values(pixels[cells], spec, self.outputs.readers).float()
        found: npt.NDArray[np.float32] = full.numpy()
        return found

    def draw(self) -> Image.Image:
        """Draws the composite; see :func:`ctnet.prediction.drawing.draw_composite`."""
        return drawing.draw_composite(self.palette, self.labels)

    def overlay(self, alpha: float = drawing.ALPHA) -> Image.Image:
        """Draws the composite over the photograph; see :func:`ctnet.prediction.drawing.overlay`."""
        return drawing.overlay(self.image, self.palette, self.labels, alpha)

    def side_by_side(self, alpha: float = drawing.ALPHA) -> Image.Image:
        """Draws both side by side; see :func:`ctnet.prediction.drawing.side_by_side`."""
        return drawing.side_by_side(self.image, self.palette, self.labels, alpha)

    def save(
        self, directory: str | Path, name: str | None = None, files: Files = "all"
    ) -> dict[str, Path]:
        """Writes pictures and labels.

        The files are NAME_composite.png, NAME_overlay.png, NAME_palette.png (indexed, task ids)
        and one for each task asked for: classes as an indexed PNG of class ids (255 = not asked),
        probabilities as a 16-bit PNG (0 to 65535), normals as a float32 .npy (H,W,3).
        NAME_TASK_view.png shows probabilities and normals in colors, hatched where not asked.

        Args:
            directory: Folder, made if missing; files of the same names are replaced.
            name: Stem of the files, the prediction's own name where None.
            files: ``labels`` (and the palette), ``pictures`` (composite, overlay and views), or
                ``all``.

        Returns:
            The paths by content: ``composite``, ``overlay``, ``palette``, task names and
            ``TASK_view``.

        Raises:
            ValueError: If the name is no plain file name, the folder is a file, or ``files`` is
                unknown.
        """
        if files not in FILES:
            raise ValueError(f"unknown files {files!r}{did_you_mean(files, FILES)}")
        name = self.name if name is None else name
        if not name or Path(name).name != name:
            raise ValueError(f"name is the stem of files, without a folder; got {name!r}.")
        directory = Path(directory)
        if directory.exists() and not directory.is_dir():
            raise ValueError(f"{directory} is a file; give a folder to write into.")
        directory.mkdir(parents=True, exist_ok=True)
        kept = result_paths(directory, name, tuple(self.labels), files)
        first = [key for key in kept if key != LAST[files]]
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda key: self._write(key, kept[key]), first))
        self._write(LAST[files], kept[LAST[files]])
        return kept

    def _write(self, key: str, path: Path) -> None:
        """Writes one of the files of :func:`~.result_files.result_paths`."""
        if key == "composite":
            save_png(self.draw(), path)
        elif key == "overlay":
            save_png(self.overlay(), path)
        elif key == "palette":
            self.palette.save(path)
        elif key in self.labels:
            _save_label(path, get_task(key), self.labels[key])
        else:
            task = key.removesuffix("_view")
            save_png(drawing.draw_task(self.palette, self.labels, task), path)


def _save_label(path: Path, task: TaskSpec, values: Label) -> None:
    if task.kind == "normals":
        np.save(path, values)
    elif task.kind == "probability":
        save_png(Image.fromarray(np.rint(values * 65535).astype(np.uint16)), path)
    else:
        picture = Image.fromarray(values)
        picture.putpalette(colors.class_colors(task).ravel().tolist())
        save_png(picture, path)


def label_array(values: Tensor) -> Label:
    """Turns the labels (H,W) or (3,H,W) of an image into an array (H,W) or (H,W,3)."""
    values = values.permute(1, 2, 0) if values.ndim == 3 else values
    return values.contiguous().cpu().numpy()
