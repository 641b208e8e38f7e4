"""``classes.toml``: what the values of your own masks mean."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from PIL import ImageColor

from ctnet.checks import did_you_mean
from ctnet.tasks import IGNORE, TASKS, Color, Kind, TaskSpec, voc_color

CLASSES_FILE = "classes.toml"

KEYS = ("title", "kind", "names", "colors", "ids", "ignore")
"""Keys of a task's table."""

TASK_COLORS: tuple[Color, ...] = (
    (194, 24, 91), (78, 52, 46), (96, 125, 139), (255, 138, 101), (255, 255, 141), (38, 50, 56),
)  # fmt: skip
"""Colors of your own tasks in palettes, in turn."""


@dataclass(frozen=True)
class MaskCode:
    """How the masks of a task are read.

    Attributes:
        task: The task.
        ids: Value of each class in the masks.
        classes: Class of the task (C,) that each of these values stands for.
        ignore: Values that are not labeled, beside 255.
    """

    task: TaskSpec
    ids: tuple[int, ...] = ()
    classes: tuple[int, ...] = ()
    ignore: tuple[int, ...] = ()

    def decode(self, values: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.uint8]:
        """Turns the values of a mask (H,W) into class ids (H,W) uint8, 255 = not labeled.

        Raises:
            ValueError: If the mask has a value that no class has.
        """
        known = {IGNORE: IGNORE} | dict(zip(self.ids, self.classes, strict=True))
        known |= dict.fromkeys(self.ignore, IGNORE)
        found, places = np.unique(values, return_inverse=True)
        unknown = [int(value) for value in found if int(value) not in known]
        if unknown:
            raise ValueError(
                f"has the values {', '.join(map(str, unknown[:5]))}; {self.task.name} has "
                f"{', '.join(map(str, self.ids[:30]))}, and {IGNORE} where nothing is labeled."
            )
        table = np.array([known[int(value)] for value in found], np.uint8)
        return table[places].reshape(values.shape)


def read_classes(path: Path) -> dict[str, MaskCode]:
    """Reads ``classes.toml``: one table for each task.

    A table has ``names`` (of the classes, in the order of their ids), and optionally ``colors``
    (``"#rrggbb"`` or names), ``ids`` (value of each class in the masks, 0, 1, ... by default),
    ``ignore`` (values that are not labeled), ``title``, and ``kind`` (``classes``, ``probability``
    or ``normals``). For a task that ctnet knows, such as ``seg``, the names are some of its own.

    Returns:
        How to read the masks of each task, by its name; nothing if there is no such file.

    Raises:
        ValueError: If the file cannot be read or a value is not allowed; the message names it.
    """
    if not path.is_file():
        return {}
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
        return {
            name: _read_table(name, table, number)
            for number, (name, table) in enumerate(tables.items())
        }
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def create_task(
    name: str,
    classes: tuple[str, ...],
    colors: tuple[Color, ...] | None = None,
    number: int = 0,
    title: str = "",
    kind: Kind = "classes",
) -> TaskSpec:
    """Makes the task of a folder of masks.

    Args:
        name: Name of the folder.
        classes: Names of the classes by id.
        colors: Color of each class; None takes the color map of VOC.
        number: Which of your own tasks it is, for its color in palettes.
        title: Name for people; the name by default.
        kind: Kind of the task.
    """
    if colors is None:
        colors = tuple(voc_color(index) for index in range(len(classes)))
    color = TASK_COLORS[number % len(TASK_COLORS)]
    return TaskSpec(name, title or name, kind, color, classes, colors)


def _read_table(name: str, table: object, number: int) -> MaskCode:
    if not isinstance(table, Mapping):
        raise ValueError(f"every task is a table ([{name}]); got {table!r:.100}.")
    for key in table:
        if key not in KEYS:
            raise ValueError(f"unknown key {key!r} of {name}{did_you_mean(key, KEYS)}")
    kind = table.get("kind", TASKS[name].kind if name in TASKS else "classes")
    if kind not in get_args(Kind):
        raise ValueError(
            f"unknown kind {kind!r} of {name}{did_you_mean(str(kind), get_args(Kind))}"
        )
    names = _texts(name, "names", table.get("names", ()))
    if kind != "classes":
        if names:
            raise ValueError(f"{name} is of kind {kind}, which has no classes (names).")
        return MaskCode(TASKS.get(name) or create_task(name, (), (), number, kind=kind))
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"names of {name} are two different classes or more; got {list(names)}.")
    ids = tuple(table.get("ids", range(len(names))))
    ignore = tuple(table.get("ignore", ()))
    if not all(type(value) is int and 0 <= value < 65536 for value in (*ids, *ignore)):
        raise ValueError(f"ids and ignore of {name} are whole numbers; got {[*ids, *ignore]}.")
    if len(ids) != len(names) or len({*ids}) < len(ids) or {*ids} & {*ignore, IGNORE}:
        raise ValueError(
            f"{name} has {len(names)} names and the ids {list(ids)}: one for each class, all "
            f"different, none of them ignored or {IGNORE}."
        )
    if name in TASKS:
        own = TASKS[name].classes
        for entry in names:
            if entry not in own:
                raise ValueError(f"{name} has no class {entry!r}{did_you_mean(entry, own)}")
        return MaskCode(TASKS[name], ids, tuple(own.index(entry) for entry in names), ignore)
    colors = None
    if "colors" in table:
        colors = tuple(_color(name, text) for text in _texts(name, "colors", table["colors"]))
        if len(colors) != len(names):
            raise ValueError(f"{name} has {len(names)} names and {len(colors)} colors.")
    title = table.get("title", "")
    if not isinstance(title, str):
        raise ValueError(f"title of {name} is text; got {title!r}.")
    spec = create_task(name, names, colors, number, title)
    return MaskCode(spec, ids, tuple(range(len(names))), ignore)


def _texts(name: str, key: str, values: object) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not all(isinstance(x, str) for x in values):
        raise ValueError(f"{key} of {name} is a list of texts; got {values!r:.100}.")
    return tuple(values)


def _color(name: str, text: str) -> Color:
    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        raise ValueError(f"{text!r} of {name} is no color such as '#ff8800'.") from None
    return red, green, blue
