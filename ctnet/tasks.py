"""Tasks that a network can be asked for: ids, class names, colors and label conventions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, get_args

from ctnet.checks import check_keys, did_you_mean

Color = tuple[int, int, int]
Kind = Literal["classes", "probability", "normals"]

IGNORE = 255
"""Value of "nothing asked here" in palettes and of "not labeled" in class maps."""

NOTHING = "none"
"""What stands for no task in rule files and on the command line."""


class Task(StrEnum):
    """The five tasks of the paper, in the order of their ids: names for any argument ``task``."""

    SEG = "seg"
    PARTS = "parts"
    EDGES = "edges"
    SALIENCY = "saliency"
    NORMALS = "normals"


@dataclass(frozen=True)
class TaskSpec:
    """What a task predicts and how it is shown.

    Attributes:
        name: Name in configurations, palettes on the command line and label files.
        title: Name for people.
        kind: ``classes`` (one of ``classes`` at each pixel), ``probability`` (in [0, 1]) or
            ``normals`` (unit vectors: x right, y up, z towards the camera).
        color: RGB color of the task in palette pictures, 0 to 255.
        classes: Class names by id, empty unless ``kind`` is ``classes``.
        class_colors: RGB color of each class.
    """

    name: str
    title: str
    kind: Kind
    color: Color
    classes: tuple[str, ...] = ()
    class_colors: tuple[Color, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TaskSpec:
        """Reads a task from JSON types.

        Raises:
            ValueError: If a key is missing or unknown.
        """
        check_keys(values, cls, "a task")
        names = [values[key] for key in ("name", "title", "kind")]
        classes, colors = (tuple(values.get(key, ())) for key in ("classes", "class_colors"))
        if not all(isinstance(name, str) for name in (*names, *classes)):
            raise ValueError(
                f"name, title, kind and classes of a task are text; got {values!r:.200}."
            )
        colors = tuple(_as_color(color) for color in colors)
        return cls(
            **{
                **values,
                "color": _as_color(values["color"]),
                "classes": classes,
                "class_colors": colors,
            }
        )


class TaskName(str):
    """A task's name that knows its task: networks whose tasks of one name differ get along.

    It equals the plain name.

    Args:
        spec: The task.

    Attributes:
        spec: As given.
    """

    spec: TaskSpec

    def __new__(cls, spec: TaskSpec) -> TaskName:  # noqa: D102
        name = super().__new__(cls, spec.name)
        name.spec = spec
        return name

    def __getnewargs__(self) -> tuple[TaskSpec]:  # type: ignore[override]
        return (self.spec,)

    @classmethod
    def of(cls, name: str) -> TaskName:
        """Returns a name as it is if it knows its task, else that of the known task.

        Raises:
            ValueError: If no task has that name.
        """
        return name if isinstance(name, TaskName) else cls(get_task(name))


def _as_color(values: Sequence[int]) -> Color:
    if (
        not isinstance(values, Sequence)
        or len(values) != 3
        or not all(isinstance(x, int) and 0 <= x <= 255 for x in values)
    ):
        raise ValueError(f"a color is three whole numbers from 0 to 255; got {values}.")
    return values[0], values[1], values[2]


VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
COLOR_MAP_CLASSES = (
    "background", "cat", "aeroplane", "chair", "pottedplant", "sheep", "bicycle", "cow", "bird",
    "diningtable", "sofa", "train", "boat", "dog", "bottle", "horse", "tvmonitor", "bus",
    "motorbike", "car", "person",
)  # fmt: skip
"""VOC classes in the order of the authors' ``colourmap_seg21.txt``, sorted by color, not by id."""

PART_CLASSES = (
    "background", "head", "torso", "upper arm", "lower arm", "upper leg", "lower leg",
)  # fmt: skip


def voc_color(index: int) -> Color:
    """Color of a class in the PASCAL VOC color map: the id's bits, spread over R, G and B."""
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
            tuple(voc_color(index) for index in range(len(VOC_CLASSES))),
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
                (94, 53, 177),
                (144, 202, 249),
            ),
        ),
        TaskSpec("edges", "semantic edges", "probability", (106, 27, 154)),
        TaskSpec("saliency", "saliency", "probability", (251, 188, 5)),
        TaskSpec("normals", "surface normals", "normals", (0, 191, 165)),
    )
}
"""The known tasks by name: those of :class:`Task` in its order, then those registered since."""

DEFAULT_TASKS: tuple[str, ...] = tuple(task.value for task in Task)


def check_task(spec: TaskSpec) -> TaskSpec:
    """Checks a task of your own.

    Args:
        spec: The task. A task of kind ``classes`` needs two classes or more and a color for each.

    Returns:
        The task.

    Raises:
        ValueError: If the name is no identifier or belongs to one of the paper's tasks, or the
            classes do not fit the kind.
    """
    if not spec.name.isidentifier():
        raise ValueError(f"a task's name is letters, digits and underscores; got {spec.name!r}.")
    if spec.kind not in get_args(Kind):
        raise ValueError(
            f"unknown kind of task {spec.kind!r}{did_you_mean(spec.kind, get_args(Kind))}"
        )
    least = 2 if spec.kind == "classes" else 0
    if len(spec.classes) < least or (spec.classes and not least):
        raise ValueError(
            f"a task of kind classes, and no other, has two classes or more; {spec.name!r} is of "
            f"kind {spec.kind} and has {len(spec.classes)}."
        )
    if len(spec.classes) > IGNORE:
        raise ValueError(
            f"a task has at most {IGNORE} classes, as labels are bytes and {IGNORE} is not "
            f"labeled; {spec.name!r} has {len(spec.classes)}."
        )
    if len(spec.class_colors) != len(spec.classes):
        raise ValueError(
            f"task {spec.name!r} has {len(spec.classes)} classes and {len(spec.class_colors)} "
            "colors."
        )
    if spec.name in DEFAULT_TASKS and TASKS[spec.name] != spec:
        raise ValueError(f"another task has the name {spec.name!r}: {TASKS[spec.name]}.")
    return spec


def register_task(spec: TaskSpec) -> TaskSpec:
    """Registers a task of your own, in addition to the paper's five.

    Checkpoints of networks that do it carry it along, so that only its maker calls this.

    Args:
        spec: The task.

    Returns:
        The task.

    Raises:
        ValueError: If :func:`check_task` refuses it, or another task has its name.
    """
    check_task(spec)
    if TASKS.get(spec.name, spec) != spec:
        raise ValueError(f"another task has the name {spec.name!r}: {TASKS[spec.name]}.")
    TASKS[spec.name] = spec
    return spec


def known_tasks(names: Iterable[str] = ()) -> dict[str, TaskSpec]:
    """Returns the known tasks by name; of ``names``, those that know their own task override."""
    return TASKS | {name: name.spec for name in names if isinstance(name, TaskName)}


def get_task(name: str) -> TaskSpec:
    """Returns the task of that name: the one that it knows (:class:`TaskName`), or a known one.

    Raises:
        ValueError: If no task has that name; the message names the nearest match.
    """
    if isinstance(name, TaskName):
        return name.spec
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}{did_you_mean(name, TASKS)}")
    return TASKS[name]
