"""Labels to colors: those of the tasks, of classes, strengths and directions."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ctnet.images import RGB
from ctnet.palette import Palette
from ctnet.tasks import Color, TaskSpec, get_task

WHITE: Color = (255, 255, 255)
INK: Color = (32, 33, 36)
FAINT: Color = (110, 114, 120)
HATCH: tuple[Color, Color] = ((238, 238, 238), (214, 214, 214))
EDGE_STOPS: tuple[Color, ...] = (WHITE, INK)
HEAT_STOPS: tuple[Color, ...] = (
    (0, 0, 4), (59, 15, 112), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191),
)  # fmt: skip
NORMALS_WHITE = 0.3
"""Share of white in the colors of normals: pure, two directions have the color of a class."""

NORMAL_EXAMPLES = (
    ("faces right", (1, 0, 0)),
    ("faces left", (-1, 0, 0)),
    ("faces up", (0, 1, 0)),
    ("faces down", (0, -1, 0)),
    ("faces the camera", (0, 0, 1)),
)


@lru_cache
def _ramp(stops: tuple[Color, ...]) -> RGB:
    """Spreads colors over 256 steps (256,3)."""
    at = np.linspace(0, len(stops) - 1, 256)
    channels = [np.interp(at, range(len(stops)), channel) for channel in zip(*stops, strict=True)]
    return np.stack(channels, 1).round().astype(np.uint8)


def class_colors(task: TaskSpec) -> RGB:
    """Returns the color of each class id (256,3): white for ids that are no class."""
    colors = np.full((256, 3), 255, np.uint8)
    colors[: len(task.classes)] = task.class_colors
    return colors


def task_colors(palette: Palette) -> RGB:
    """Returns the color of each task id (256,3), white where nothing is asked."""
    colors = np.full((256, 3), 255, np.uint8)
    colors[: len(palette.tasks)] = [get_task(name).color for name in palette.tasks]
    return colors


def colorize(values: npt.NDArray[Any], task: TaskSpec) -> RGB:
    """Draws labels of one task.

    Args:
        values: Class ids (...), probabilities (...) in [0, 1], or unit normals (...,3).
        task: The task.

    Returns:
        Colors (...,3) uint8: class colors (white where 255), edges dark on white, saliency from
        black over red to light yellow, normals as (n+1)/2 with a share of white.
    """
    colors: RGB
    if task.kind == "classes":
        colors = class_colors(task)[values]
    elif task.kind == "normals":
        pure = (values + 1) * 127.5
        colors = np.rint(pure + NORMALS_WHITE * (255 - pure)).clip(0, 255).astype(np.uint8)
    else:
        ramp = _ramp(EDGE_STOPS if task.name == "edges" else HEAT_STOPS)
        colors = ramp[np.rint(values * 255).astype(np.uint8)]
    return colors
