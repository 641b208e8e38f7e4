"""Tasks that a network can be asked for: ids, class names, colours and label conventions."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

Color = tuple[int, int, int]
Kind = Literal["classes", "probability", "normals"]

IGNORE = 255
"""Value of "nothing asked here" in palettes and of "not labelled" in class maps."""


class Task(IntEnum):
    """The five tasks of the paper; the value is the id in palettes."""

    SEG = 0
    PARTS = 1
    EDGES = 2
    SALIENCY = 3
    NORMALS = 4


@dataclass(frozen=True)
class TaskSpec:
    """What a task predicts and how it is shown.

    Attributes:
        name: Name in configurations, palettes on the command line and label files.
        title: Name for people.
        kind: ``classes`` (one of ``classes`` at each pixel), ``probability`` (in [0, 1]) or
            ``normals`` (unit vectors: x right, y up, z towards the camera).
        color: RGB colour of the task in palette pictures, 0 to 255.
        classes: Class names by id, empty unless ``kind`` is ``classes``.
        class_colors: RGB colour of each class.
    """

    name: str
    title: str
    kind: Kind
    color: Color
    classes: tuple[str, ...] = ()
    class_colors: tuple[Color, ...] = ()


VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
PART_CLASSES = (
    "background", "head", "torso", "upper arm", "lower arm", "upper leg", "lower leg",
)  # fmt: skip


def _voc_color(index: int) -> Color:
    """Colour of a class in the PASCAL VOC colour map: the id's bits, spread over R, G and B."""
    channels = [0, 0, 0]
    for shift in range(7, -1, -1):
        for channel in range(3):
            channels[channel] |= ((index >> channel) & 1) << shift
        index >>= 3
    return channels[0], channels[1], channels[2]


TASKS: dict[str, TaskSpec] = {
    spec.name: spec
    for spec in (
        TaskSpec(
            "seg",
            "semantic segmentation",
            "classes",
            (66, 133, 244),
            VOC_CLASSES,
            tuple(_voc_color(index) for index in range(len(VOC_CLASSES))),
        ),
        TaskSpec(
            "parts",
            "human parts",
            "classes",
            (234, 67, 53),
            PART_CLASSES,
            (
                (0, 0, 0),
                (255, 204, 92),
                (255, 111, 105),
                (136, 216, 176),
                (69, 173, 168),
                (142, 108, 201),
                (87, 117, 214),
            ),
        ),
        TaskSpec("edges", "semantic edges", "probability", (120, 120, 120)),
        TaskSpec("saliency", "saliency", "probability", (251, 188, 5)),
        TaskSpec("normals", "surface normals", "normals", (52, 168, 83)),
    )
}
"""The known tasks by name, in the order of :class:`Task`."""

DEFAULT_TASKS: tuple[str, ...] = tuple(task.name.lower() for task in Task)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Ends an error message on an unknown name: the nearest match and all that is allowed."""
    choices = list(allowed)
    close = difflib.get_close_matches(name, choices, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} Allowed: {', '.join(choices)}." if hint else f"; allowed: {', '.join(choices)}."


def get_task(name: str) -> TaskSpec:
    """Returns the task of that name.

    Raises:
        ValueError: If no task has that name; the message names the nearest match.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}{nearest(name, TASKS)}")
    return TASKS[name]
