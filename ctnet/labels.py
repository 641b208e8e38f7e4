"""Composite to labels: class anchors, unit normals, probabilities (section 3.3, eq. 5)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ctnet.tasks import IGNORE, TaskSpec, get_task

if TYPE_CHECKING:
    from ctnet.palette import Palette

SCORE_EPS = 1e-2
"""eps of eq. 5: caps the score of an output on its anchor at 100."""

SCORED_AT_ONCE = 2**20
"""Number of pixels whose class scores are in memory at a time."""

Point = tuple[float, float, float]


@dataclass(frozen=True)
class ClassAnchors:
    """Anchors of a task that a network learned instead of those of :func:`class_anchors`.

    Attributes:
        task: Name of the task.
        points: The anchor of each class, in [0, 1].
    """

    task: str
    points: tuple[Point, ...]


def _lattice(kind: str, points: int) -> list[Point]:
    """Points of a lattice over the cube: simple cubic, or with faces or bodies centered."""
    axis = range(points)
    step = 1 / (points - 1)
    extra: dict[str, list[Point]] = {
        "simple": [],
        "body": [(0.5, 0.5, 0.5)],
        "face": [(0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)],
    }
    found = (
        ((i + dx) * step, (j + dy) * step, (k + dz) * step)
        for dx, dy, dz in [(0, 0, 0), *extra[kind]]
        for i, j, k in itertools.product(axis, axis, axis)
    )
    return [point for point in found if max(point) <= 1]


@lru_cache
def class_anchors(classes: int) -> tuple[Point, ...]:
    """Spreads one anchor per class uniformly in the unit cube.

    Of the simple, body-centered and face-centered cubic lattices that span the cube and have room
    for all classes, the one with the widest spacing is taken; from it the anchors are picked one
    by one, each farthest from those already picked, ties in lexicographic order, beginning with
    the origin (class 0). The center of the cube is left out: an untrained network's outputs stand
    there, where the scores of eq. 5 have no useful gradient. This gives the corners for up to 8
    classes (distance 1), corners and face centers for up to 14 (0.707), and the 3 x 3 x 3 lattice
    for up to 26 (0.5).

    Args:
        classes: Number of classes, at least 2.

    Returns:
        Anchors (classes, 3) in [0, 1].

    Raises:
        ValueError: If there are fewer than two classes.
    """
    if classes < 2:
        raise ValueError(f"class anchors are for two classes or more; got {classes}.")
    side = 2
    while True:
        rooms = []
        for kind in ("simple", "face", "body"):
            points = np.array([p for p in _lattice(kind, side) if p != (0.5, 0.5, 0.5)])
            if len(points) >= classes:
                gaps = np.linalg.norm(points[:, None] - points[None], axis=2)
                rooms.append((gaps[gaps > 0].min(), points))
        if rooms:
            break
        side += 1
    points = max(rooms, key=lambda room: float(room[0]))[1]
    points = points[np.lexsort(points.T[::-1])]
    picked = [0]
    distance = np.linalg.norm(points - points[0], axis=1)
    while len(picked) < classes:
        picked.append(int(np.argmax(np.round(distance, 9))))
        distance = np.minimum(distance, np.linalg.norm(points - points[picked[-1]], axis=1))
    return tuple((float(x), float(y), float(z)) for x, y, z in points[picked])


def anchor_scores(outputs: Tensor, points: Sequence[Point]) -> Tensor:
    """Scores classes by eq. 5: 1 / (distance to the class's anchor + eps).

    Args:
        outputs: Raw outputs (...,3) of a network.
        points: The anchor of each of C classes, in [0, 1].

    Returns:
        Scores (...,C); their softmax are the class probabilities.
    """
    # cdist knows no half precision.
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    anchors = outputs.new_tensor(points)
    # Without matrix products cdist is exact, and its gradient on an anchor is 0, not NaN.
    found = torch.sigmoid(outputs).reshape(-1, 3)
    distances = torch.cdist(found, anchors, compute_mode="donot_use_mm_for_euclid_dist")
    return 1 / (distances.view(*outputs.shape[:-1], len(points)) + SCORE_EPS)


def task_anchors(task: TaskSpec, anchors: Sequence[ClassAnchors] = ()) -> tuple[Point, ...]:
    """Returns the anchor of each class of a task.

    Args:
        task: A task of kind ``classes``.
        anchors: The network's own anchors, if it has any.
    """
    own = {entry.task: entry.points for entry in anchors}
    return own.get(task.name) or class_anchors(len(task.classes))


class ClassReader(Protocol):
    """How classes are read off raw outputs: by eq. 5, or by a label table."""

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Returns class probabilities (...,C) for raw outputs (...,3)."""
        ...

    def classes(self, outputs: Tensor) -> Tensor:
        """Returns class ids (...) uint8 for raw outputs (...,3)."""
        ...


@dataclass(frozen=True)
class AnchorReader:
    """Reads classes by eq. 5.

    Attributes:
        points: The anchor of each of C classes, in [0, 1].
    """

    points: tuple[Point, ...]

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Returns the softmax (...,C) of the scores of raw outputs (...,3)."""
        return anchor_scores(outputs, self.points).softmax(-1)

    def classes(self, outputs: Tensor) -> Tensor:
        """Returns the class (...) uint8 whose anchor is nearest to raw outputs (...,3)."""
        parts = torch.split(outputs.reshape(-1, 3), SCORED_AT_ONCE)
        found = [anchor_scores(x, self.points).argmax(-1).to(torch.uint8) for x in parts]
        return torch.cat(found).view(outputs.shape[:-1])


Readers = Mapping[str, ClassReader]
"""What reads the classes of a task, by its name; tasks that are left out read by eq. 5."""

NO_READERS: Readers = MappingProxyType({})
"""Every task reads by eq. 5."""


def class_reader(task: TaskSpec, readers: Readers = NO_READERS) -> ClassReader:
    """Returns what reads a task's classes: its own reader, or eq. 5 with the usual anchors."""
    return readers.get(task.name) or AnchorReader(class_anchors(len(task.classes)))


def task_values(outputs: Tensor, task: TaskSpec, readers: Readers = NO_READERS) -> Tensor:
    """Turns raw outputs into what a task predicts, as numbers that may be averaged.

    Args:
        outputs: Raw outputs (...,3).
        task: The task.
        readers: The network's readers, ``model.readers``.

    Returns:
        Class probabilities (...,C), a probability (...,1): the mean of the channels, or unit
        normals (...,3).
    """
    if task.kind == "classes":
        return class_reader(task, readers).probabilities(outputs)
    if task.kind == "probability":
        return torch.sigmoid(outputs).mean(-1, keepdim=True)
    return F.normalize(outputs, dim=-1)


@dataclass(frozen=True)
class TaskLabels:
    """The prediction for one task.

    Attributes:
        values: Class ids (N,H,W) uint8, probabilities (N,H,W), or unit normals (N,3,H,W);
            255, 0 and 0 where not valid.
        valid: Where (N,H,W) the palette asked for the task.
    """

    values: Tensor
    valid: Tensor


def decode_task(outputs: Tensor, task: TaskSpec, readers: Readers = NO_READERS) -> Tensor:
    """Decodes raw outputs (P,3) of one task: class ids (P,), probabilities (P,), normals (P,3)."""
    if task.kind == "classes":
        return class_reader(task, readers).classes(outputs)
    values = task_values(outputs, task)
    return values[..., 0] if task.kind == "probability" else values


def decode(
    composite: Tensor,
    palette: Tensor,
    tasks: Sequence[str],
    readers: Readers = NO_READERS,
) -> dict[str, TaskLabels]:
    """Reads the labels of every requested task out of a composite.

    Args:
        composite: Raw outputs (N,3,H,W).
        palette: Task ids (N,H,W), 255 where nothing was asked.
        tasks: Names by id.
        readers: The network's readers, ``model.readers``.

    Returns:
        Labels by task name, for the tasks that the palette asks for somewhere.

    Raises:
        ValueError: If the shapes do not fit each other.
    """
    if composite.ndim != 4 or composite.shape[1] != 3:
        raise ValueError(f"a composite is (N,3,H,W); got {tuple(composite.shape)}.")
    if palette.shape != (composite.shape[0], *composite.shape[2:]):
        raise ValueError(
            f"the palette is {tuple(palette.shape)}, the composite {tuple(composite.shape)}."
        )
    pixels = composite.permute(0, 2, 3, 1)
    found = {}
    for i, name in enumerate(tasks):
        valid = palette == i
        if not bool(valid.any()):
            continue
        task = get_task(name)
        values = decode_task(pixels[valid], task, readers)
        fill = IGNORE if task.kind == "classes" else 0
        shape = (*palette.shape, *values.shape[1:])
        full = torch.full(shape, fill, dtype=values.dtype, device=values.device)
        full[valid] = values
        found[name] = TaskLabels(
            full.permute(0, 3, 1, 2) if task.kind == "normals" else full, valid
        )
    return found


class Reads(Protocol):
    """A network as far as its labels are read."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks by id."""
        ...

    @property
    def readers(self) -> Readers:
        """What reads the classes of its tasks."""
        ...


def to_labels(outputs: Tensor, palette: Tensor | Palette, model: Reads) -> dict[str, TaskLabels]:
    """Reads the labels of every requested task out of what ``model(image, palette)`` returned.

    Classes are read by the network's label tables, or by eq. 5 where it has none.

    Args:
        outputs: Raw outputs (N,3,H,W), or (3,H,W).
        palette: What the network was asked: task ids (N,H,W) or (H,W), 255 = nothing; a
            :class:`ctnet.Palette`; or fractions (N,K,H,W), whose largest counts at each pixel.
        model: The network.

    Returns:
        Labels by task name, for the tasks that the palette asks for somewhere; without the batch
        dimension for outputs (3,H,W).

    Raises:
        ValueError: If the shapes do not fit each other, or the palette has other tasks.

    Example::

        outputs = model(image, palette)
        classes = ctnet.to_labels(outputs, palette, model)["seg"].values
    """
    single = outputs.ndim == 3
    ids = _task_ids(palette, model.tasks)
    if single:
        outputs = outputs[None]
    if outputs.ndim != 4 or outputs.shape[1] != 3:
        raise ValueError(f"outputs are (N,3,H,W) or (3,H,W); got {tuple(outputs.shape)}.")
    if ids.ndim == 2:
        ids = ids[None]
    if ids.ndim == 3 and len(ids) == 1:
        ids = ids.expand(len(outputs), -1, -1)
    found = decode(outputs, ids.to(outputs.device), model.tasks, model.readers)
    if not single:
        return found
    return {name: TaskLabels(x.values[0], x.valid[0]) for name, x in found.items()}


def _task_ids(palette: Tensor | Palette, tasks: tuple[str, ...]) -> Tensor:
    """Returns the ids (N,H,W) or (H,W) of a palette of any kind."""
    if not isinstance(palette, Tensor):
        if palette.tasks != tasks:
            raise ValueError(f"the palette's tasks are {palette.tasks}, the model's {tasks}.")
        return palette.tensor()
    if not palette.is_floating_point():
        return palette
    if palette.ndim < 3 or palette.shape[-3] != len(tasks):
        raise ValueError(
            f"a palette of fractions is (N,{len(tasks)},H,W); got {tuple(palette.shape)}."
        )
    share, ids = palette.max(-3)
    return torch.where(share > 0, ids, IGNORE)
