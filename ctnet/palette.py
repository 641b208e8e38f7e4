"""Task palettes: which task is asked for at which pixel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ctnet.checks import did_you_mean
from ctnet.outputs import png_mark
from ctnet.tasks import DEFAULT_TASKS, IGNORE, get_task, known_tasks

if TYPE_CHECKING:
    from torch import Tensor

Mask = npt.NDArray[np.bool_]
Box = tuple[float, float, float, float]
Point = tuple[float, float]
Size = tuple[int, int]

MAX_PIXELS = 1 << 30
"""Largest number of pixels of a palette."""


def _check_size(size: Size) -> None:
    try:
        sides = [index(side) for side in size]
        sound = len(sides) == 2 and min(sides) >= 1
    except TypeError:
        sound = False
    if sound and sides[0] * sides[1] > MAX_PIXELS:
        raise ValueError(f"a palette has at most {MAX_PIXELS} pixels; got {size!r:.100}.")
    if not sound:
        raise ValueError(
            "a palette's size is (height, width), two whole numbers of at least 1; got "
            f"{size!r:.100}."
        )


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
        if isinstance(self.tasks, str):
            raise ValueError(f"tasks are several names, such as (seg, parts); got {self.tasks!r}.")
        unknown = unknown_ids(ids, len(self.tasks))
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
            raise ValueError(f"unknown task {task!r}{did_you_mean(task, self.tasks)}")
        return self.tasks.index(task)

    def requested(self) -> tuple[str, ...]:
        """Returns the names of the tasks that are asked for somewhere, by id."""
        counts = np.bincount(self.ids.ravel(), minlength=len(self.tasks))
        return tuple(task for task, count in zip(self.tasks, counts, strict=False) if count)

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
                raise ValueError(f"unknown task {name!r}{did_you_mean(name, names)}")
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
        """Asks for a task in a box, cut at the palette's border.

        Args:
            box: Its edges (left, top, right, bottom) in pixels from the image's corner, as numbers
                of any type; the pixels whose middles are inside are painted, so that of whole
                numbers the ends are excluded.
            task: The task, None for nothing.

        Raises:
            ValueError: If the box has no positive sides, or one edge is not finite.
        """
        edges = np.asarray([float(edge) for edge in box])
        if edges.shape != (4,) or not np.isfinite(edges).all() or (edges[2:] <= edges[:2]).any():
            raise ValueError(
                f"a box is (left, top, right, bottom), finite, with positive sides; got {box}."
            )
        left, top, right, bottom = edges
        rows, columns = np.ogrid[: self.size[0], : self.size[1]]
        inside = (left <= columns + 0.5) & (columns + 0.5 < right)
        return self.paint(inside & (top <= rows + 0.5) & (rows + 0.5 < bottom), task)

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
            center: Center (x, y) in pixels; whole numbers are the middles of pixels.
            radius: Pixels whose middle is at most this far from the center are painted.
            task: The task, None for nothing.

        Raises:
            ValueError: If the radius is not positive, or a number is not finite.
        """
        x, y = center
        if not np.isfinite((x, y, radius)).all() or radius <= 0:
            raise ValueError(
                f"a circle has a finite center and a positive radius; got {center}, {radius}."
            )
        rows, columns = np.ogrid[: self.size[0], : self.size[1]]
        return self.paint((columns - x) ** 2 + (rows - y) ** 2 <= radius * radius, task)

    def replace(self, old: str | None, new: str | None) -> Palette:
        """Asks for ``new`` wherever ``old`` was asked for (None: nothing)."""
        return self.paint(self.ids == IGNORE if old is None else self.mask(old), new)

    def resize(self, size: Size) -> Palette:
        """Samples the palette at another size, nearest neighbor."""
        _check_size(size)
        image = Image.fromarray(self.ids).resize((size[1], size[0]), Image.Resampling.NEAREST)
        return Palette(np.array(image), self.tasks)

    def tensor(self) -> Tensor:
        """Returns the ids as an int64 tensor (H,W)."""
        import torch

        return torch.from_numpy(self.ids.astype(np.int64))

    def save(self, path: str | Path) -> None:
        """Writes an indexed PNG whose indices are the ids, in the tasks' colors.

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
        image.save(path, pnginfo=png_mark())

    @classmethod
    def load(cls, path: str | Path, tasks: Sequence[str] = DEFAULT_TASKS) -> Palette:
        """Reads a palette: a file in the tasks' colors, or of ids.

        Colors count first, so that what an editor saved as RGB or with a color table of its own
        is read as it looks; white and what is transparent ask for nothing. A file in other colors,
        such as a gray PNG, holds ids.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no image, has an unknown id, or mixes colors of tasks with others.
        """
        tasks = tuple(tasks)
        with _open(path) as image:
            if image.mode in ("L", "1", "I;16", "I"):
                return cls(_ids(image, path), tasks)
            indices = _ids(image, path) if image.mode == "P" else None
            pixels = np.array(image.convert("RGBA"), np.uint32)
        shown = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
        shown[pixels[..., 3] == 0] = WHITE
        found, places = np.unique(shown, return_inverse=True)
        known = known_tasks(tasks)
        named = {
            _packed(known[name].color): number for number, name in enumerate(tasks) if name in known
        }
        named[WHITE] = IGNORE
        colored = cls._by_color(found.tolist(), named, path, indices is None)
        if colored is not None:
            return cls(colored[places].reshape(shown.shape), tasks)
        return cls(cast("npt.NDArray[np.uint8]", indices), tasks)

    @staticmethod
    def _by_color(
        found: list[int], named: dict[int, int], path: str | Path, full: bool
    ) -> npt.NDArray[np.uint8] | None:
        """Returns the id of each color found, or None where they are no colors of tasks."""
        others = [color for color in found if color not in named]
        if not others:
            return np.array([named[color] for color in found], np.uint8)
        if not full and not any(color in named for color in found if color != WHITE):
            return None
        raise ValueError(
            f"{path} has colors that are none of a task: #{others[0]:06x}"
            f"{f' and {len(others) - 1} more' if len(others) > 1 else ''}; a palette is a PNG in "
            "the tasks' colors without smoothed edges, or an indexed or gray PNG of task ids."
        )


WHITE = 0xFFFFFF
"""Color of "nothing asked here" in palette files."""


def _packed(color: tuple[int, int, int]) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


@contextmanager
def _open(path: str | Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise FileNotFoundError(f"no image of ids at {path}.") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no image of ids: {error}") from error


def _ids(image: Image.Image, path: str | Path) -> npt.NDArray[np.uint8]:
    if image.mode not in ("P", "L", "1"):
        raise ValueError(
            f"{path} holds {image.mode} colors; ids are read from an indexed (or 8-bit gray) PNG "
            "whose values they are."
        )
    return np.array(image, np.uint8)


def read_ids(path: str | Path) -> npt.NDArray[np.uint8]:
    """Reads the ids (H,W) of an indexed or 8-bit gray image: a palette's or a class map's.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no image, or has full colors rather than ids.
    """
    with _open(path) as image:
        return _ids(image, path)


def read_mask(path: str | Path) -> Mask:
    """Reads a mask (H,W) from an indexed, gray or black-and-white image of two values.

    Returns:
        True where the value is not 0.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no image, has full colors, or other values than 0 and one more.
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


def unknown_ids(ids: npt.NDArray[np.integer], count: int) -> list[int]:
    """Returns what a map of ids holds beside 0 to ``count`` - 1 and 255, sorted."""
    unknown = ids[(ids < 0) | (ids >= count) & (ids != IGNORE)]
    return sorted(set(unknown.tolist()))
