"""Task palettes: which task is asked for at which pixel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ctnet.tasks import DEFAULT_TASKS, IGNORE, get_task, nearest

if TYPE_CHECKING:
    from torch import Tensor

Mask = npt.NDArray[np.bool_]
Box = tuple[int, int, int, int]
Point = tuple[float, float]
Size = tuple[int, int]


def _check_size(size: Size) -> None:
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"a palette's size is (height, width), both at least 1; got {size}.")


@dataclass(frozen=True, eq=False)
class Palette:
    """Requests for tasks at every pixel of an image.

    Palettes are values: every edit gives a new one.

    Attributes:
        ids: Task ids (H,W) uint8: indices into ``tasks``, or 255 where nothing is asked.
        tasks: Names of the tasks in the order of their ids.

    Raises:
        ValueError: If ids are not a non-empty (H,W) array of whole numbers, or one is unknown.
    """

    ids: npt.NDArray[np.uint8]
    tasks: tuple[str, ...] = field(default=DEFAULT_TASKS)

    def __post_init__(self) -> None:
        ids = np.asarray(self.ids)
        if ids.ndim != 2 or ids.size == 0:
            raise ValueError(f"a palette is a non-empty (H,W) array of ids; got shape {ids.shape}.")
        if ids.dtype.kind not in "iu":
            raise ValueError(f"palette ids are whole numbers; got {ids.dtype}.")
        unknown = sorted({int(i) for i in np.unique(ids)} - {*range(len(self.tasks)), IGNORE})
        if unknown:
            known = ", ".join(f"{i} = {name}" for i, name in enumerate(self.tasks))
            raise ValueError(
                f"unknown task ids {unknown} in the palette; known: {known}, {IGNORE} = nothing."
            )
        object.__setattr__(self, "tasks", tuple(self.tasks))
        ids = ids.astype(np.uint8)
        ids.flags.writeable = False
        object.__setattr__(self, "ids", ids)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Palette):
            return NotImplemented
        return self.tasks == other.tasks and np.array_equal(self.ids, other.ids)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.shares().items())
        return f"Palette({self.ids.shape[0]}x{self.ids.shape[1]}: {shares or 'nothing asked'})"

    @property
    def size(self) -> Size:
        """Height and width in pixels."""
        return self.ids.shape[0], self.ids.shape[1]

    def task_id(self, task: str) -> int:
        """Returns the id of a task.

        Raises:
            ValueError: If the palette has no such task.
        """
        if task not in self.tasks:
            raise ValueError(f"unknown task {task!r}{nearest(task, self.tasks)}")
        return self.tasks.index(task)

    def requested(self) -> tuple[str, ...]:
        """Returns the names of the tasks that are asked for somewhere, by id."""
        return tuple(self.tasks[i] for i in np.unique(self.ids) if i != IGNORE)

    def mask(self, task: str) -> Mask:
        """Returns where (H,W) a task is asked for."""
        mask: Mask = self.ids == self.task_id(task)
        return mask

    def shares(self) -> dict[str, float]:
        """Returns the share of the image that asks for each requested task."""
        return {name: float(self.mask(name).mean()) for name in self.requested()}

    @classmethod
    def single(cls, task: str, size: Size, tasks: Sequence[str] = DEFAULT_TASKS) -> Palette:
        """Asks for one task everywhere."""
        return cls.empty(size, tasks).fill(task)

    @classmethod
    def empty(cls, size: Size, tasks: Sequence[str] = DEFAULT_TASKS) -> Palette:
        """Asks for nothing: a canvas to paint on."""
        _check_size(size)
        return cls(np.full(size, IGNORE, np.uint8), tuple(tasks))

    @classmethod
    def mosaic(
        cls, size: Size, generator: np.random.Generator, tasks: Sequence[str] = DEFAULT_TASKS,
        among: Sequence[str] | None = None,
    ) -> Palette:  # fmt: skip
        """Four rectangles around a random point, each with a task drawn at random (rule R1).

        Args:
            size: Height and width.
            generator: Source of chance.
            tasks: Names by id.
            among: Tasks to draw from, all where None; named twice, one is drawn twice as often.
        """
        height, width = size
        _check_size(size)
        row = round(height * generator.uniform(0.25, 0.75))
        column = round(width * generator.uniform(0.25, 0.75))
        draws = cls._draw(generator, 4, tasks, among)
        ids = np.empty(size, np.uint8)
        ids[:row, :column], ids[:row, column:] = draws[0], draws[1]
        ids[row:, :column], ids[row:, column:] = draws[2], draws[3]
        return cls(ids, tuple(tasks))

    @classmethod
    def random(
        cls, size: Size, generator: np.random.Generator, tasks: Sequence[str] = DEFAULT_TASKS,
        among: Sequence[str] | None = None,
    ) -> Palette:  # fmt: skip
        """Every pixel draws its task (rule Rrnd); arguments as for :meth:`mosaic`."""
        _check_size(size)
        return cls(cls._draw(generator, size, tasks, among), tuple(tasks))

    @staticmethod
    def _draw(
        generator: np.random.Generator, shape: int | Size, tasks: Sequence[str],
        among: Sequence[str] | None,
    ) -> npt.NDArray[np.uint8]:  # fmt: skip
        names = tuple(tasks)
        drawn = names if among is None else tuple(among)
        if not drawn:
            raise ValueError("no task to draw from.")
        for name in drawn:
            if name not in names:
                raise ValueError(f"unknown task {name!r}{nearest(name, names)}")
        choices = [names.index(name) for name in drawn]
        return np.asarray(choices, np.uint8)[generator.integers(len(choices), size=shape)]

    @classmethod
    def from_masks(
        cls, masks: Iterable[tuple[str, Mask]], tasks: Sequence[str] = DEFAULT_TASKS
    ) -> Palette:
        """Paints masks (H,W), each with its task, one over the other.

        Raises:
            ValueError: If there is no mask, or sizes differ.
        """
        layers = list(masks)
        if not layers:
            raise ValueError("a palette from masks needs at least one (task, mask) pair.")
        palette = cls.empty(np.asarray(layers[0][1]).shape, tasks)
        for task, mask in layers:
            palette = palette.paint(mask, task)
        return palette

    @classmethod
    def from_boxes(
        cls, boxes: Iterable[tuple[str, Box]], size: Size, background: str | None = None,
        tasks: Sequence[str] = DEFAULT_TASKS,
    ) -> Palette:  # fmt: skip
        """Paints boxes (left, top, right, bottom), ends excluded, over ``background``."""
        palette = cls._canvas(size, background, tasks)
        for task, box in boxes:
            palette = palette.paint_box(box, task)
        return palette

    @classmethod
    def from_polygons(
        cls, polygons: Iterable[tuple[str, Sequence[Point]]], size: Size,
        background: str | None = None, tasks: Sequence[str] = DEFAULT_TASKS,
    ) -> Palette:  # fmt: skip
        """Paints filled polygons, corners as (x, y), over ``background``."""
        palette = cls._canvas(size, background, tasks)
        for task, corners in polygons:
            palette = palette.paint_polygon(corners, task)
        return palette

    @classmethod
    def _canvas(cls, size: Size, background: str | None, tasks: Sequence[str]) -> Palette:
        return cls.single(background, size, tasks) if background else cls.empty(size, tasks)

    def fill(self, task: str | None) -> Palette:
        """Asks for a task (None: nothing) everywhere."""
        return self.paint(np.ones(self.size, bool), task)

    def paint(self, mask: Mask, task: str | None) -> Palette:
        """Asks for a task (None: nothing) where ``mask`` (H,W) is true.

        Raises:
            ValueError: If the mask has another size or is not of truth values.
        """
        mask = np.asarray(mask)
        if mask.shape != self.ids.shape or mask.dtype != bool:
            raise ValueError(
                f"a mask for this palette is bool {self.ids.shape}; got {mask.dtype} {mask.shape}."
            )
        value = IGNORE if task is None else self.task_id(task)
        return Palette(np.where(mask, np.uint8(value), self.ids), self.tasks)

    def paint_box(self, box: Box, task: str | None) -> Palette:
        """Asks for a task in a box (left, top, right, bottom), ends excluded, cut at the border.

        Raises:
            ValueError: If the box is empty.
        """
        left, top, right, bottom = box
        if right <= left or bottom <= top:
            raise ValueError(f"a box is (left, top, right, bottom) with positive sides; got {box}.")
        mask = np.zeros(self.size, bool)
        mask[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
        return self.paint(mask, task)

    def paint_polygon(self, corners: Sequence[Point], task: str | None) -> Palette:
        """Asks for a task inside and on the border of a polygon, cut at the palette's border.

        Args:
            corners: Corners (x, y) in pixels; whole numbers are the middles of pixels, so that
                corners, unlike the ends of a box, are painted.
            task: The task, None for nothing.

        Raises:
            ValueError: If there are fewer than three corners, or one is not finite.
        """
        if len(corners) < 3:
            raise ValueError(f"a polygon has at least three corners; got {len(corners)}.")
        if not np.isfinite(np.asarray(corners, float)).all():
            raise ValueError(f"a polygon's corners are finite; got {list(corners)}.")
        canvas = Image.new("1", (self.size[1], self.size[0]))
        ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in corners], fill=1)
        return self.paint(np.array(canvas, bool), task)

    def paint_circle(self, center: Point, radius: float, task: str | None) -> Palette:
        """Asks for a task in a circle, cut at the palette's border.

        Args:
            center: Centre (x, y) in pixels; whole numbers are the middles of pixels.
            radius: Pixels whose middle is at most this far from the centre are painted.
            task: The task, None for nothing.

        Raises:
            ValueError: If the radius is not positive, or a number is not finite.
        """
        x, y = center
        if not np.isfinite((x, y, radius)).all() or radius <= 0:
            raise ValueError(
                f"a circle has a finite centre and a positive radius; got {center}, {radius}."
            )
        rows, columns = np.ogrid[: self.size[0], : self.size[1]]
        return self.paint((columns - x) ** 2 + (rows - y) ** 2 <= radius**2, task)

    def replace(self, old: str | None, new: str | None) -> Palette:
        """Asks for ``new`` wherever ``old`` was asked for (None: nothing)."""
        return self.paint(self.ids == IGNORE if old is None else self.mask(old), new)

    def resize(self, size: Size) -> Palette:
        """Samples the palette at another size, nearest neighbour."""
        _check_size(size)
        image = Image.fromarray(self.ids).resize((size[1], size[0]), Image.Resampling.NEAREST)
        return Palette(np.array(image), self.tasks)

    def tensor(self) -> Tensor:
        """Returns the ids as an int64 tensor (H,W)."""
        import torch

        return torch.from_numpy(self.ids.astype(np.int64))

    def save(self, path: str | Path) -> None:
        """Writes an indexed PNG whose indices are the ids, in the tasks' colours.

        Raises:
            ValueError: If the path does not end in ``.png``.
        """
        if Path(path).suffix.lower() != ".png":
            raise ValueError(f"palettes are written as .png, whose ids survive; got {path}.")
        colors = np.zeros((256, 3), np.uint8)
        for i, name in enumerate(self.tasks):
            colors[i] = get_task(name).color
        colors[IGNORE] = (255, 255, 255)
        image = Image.fromarray(self.ids)
        image.putpalette(colors.ravel().tolist())
        image.save(path)

    @classmethod
    def load(cls, path: str | Path, tasks: Sequence[str] = DEFAULT_TASKS) -> Palette:
        """Reads an indexed or 8-bit grey PNG of ids.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no image, has full colours rather than ids, or an unknown id.
        """
        return cls(read_ids(path), tuple(tasks))


def read_ids(path: str | Path) -> npt.NDArray[np.uint8]:
    """Reads the ids (H,W) of an indexed or 8-bit grey image: a palette's or a class map's.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no image, or has full colours rather than ids.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L", "1"):
                raise ValueError(
                    f"{path} holds {image.mode} colours; ids are read from an indexed (or 8-bit "
                    "grey) PNG whose values they are."
                )
            return np.array(image, np.uint8)
    except FileNotFoundError:
        raise FileNotFoundError(f"no image of ids at {path}.") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no image of ids: {error}") from error


def read_mask(path: str | Path) -> Mask:
    """Reads a mask (H,W) from an indexed, grey or black-and-white image of two values.

    Returns:
        True where the value is not 0.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no image, has full colours, or other values than 0 and one more.
    """
    values = read_ids(path)
    other = np.unique(values[values != 0])
    if len(other) > 1:
        raise ValueError(
            f"{path} holds {len(other)} values beside 0; a mask has two: 0 where the palette stays "
            "as it is, and one other."
        )
    mask: Mask = values != 0
    return mask
