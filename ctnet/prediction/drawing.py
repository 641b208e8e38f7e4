"""Labels to pictures: each region in the drawing of its task, with a legend."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ctnet.images import RGB
from ctnet.palette import Palette, Size
from ctnet.tasks import IGNORE, Color, TaskSpec, get_task

if TYPE_CHECKING:
    from ctnet.prediction.predict import Prediction

Mask = npt.NDArray[np.bool_]

ALPHA = 0.75
"""Share of the composite in an overlay."""

PALETTE_ALPHA = 0.55
"""Share of a palette that is drawn over a photograph."""

READABLE = 480
"""Overlays of images whose longest side is below this are enlarged by a whole factor."""

LARGEST = 1600
"""Overlays of images whose longest side is above this are scaled down to it."""

WHITE: Color = (255, 255, 255)
INK: Color = (32, 33, 36)
FAINT: Color = (110, 114, 120)
HATCH: tuple[Color, Color] = ((238, 238, 238), (214, 214, 214))
EDGE_STOPS: tuple[Color, ...] = (WHITE, INK)
HEAT_STOPS: tuple[Color, ...] = (
    (0, 0, 4), (59, 15, 112), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191),
)  # fmt: skip
NORMAL_EXAMPLES = (
    ("faces right", (1, 0, 0)),
    ("faces left", (-1, 0, 0)),
    ("faces up", (0, 1, 0)),
    ("faces down", (0, -1, 0)),
    ("faces the camera", (0, 0, 1)),
)

BUSY = 0.1
"""Share of boundary pixels from which boundaries would hide the picture and are left out."""


@lru_cache
def _ramp(stops: tuple[Color, ...]) -> RGB:
    """Spreads colours over 256 steps (256,3)."""
    at = np.linspace(0, len(stops) - 1, 256)
    channels = [np.interp(at, range(len(stops)), channel) for channel in zip(*stops, strict=True)]
    return np.stack(channels, 1).round().astype(np.uint8)


def class_colors(task: TaskSpec) -> RGB:
    """Returns the colour of each class id (256,3): white for ids that are no class."""
    colors = np.full((256, 3), 255, np.uint8)
    colors[: len(task.classes)] = task.class_colors
    return colors


def colorize(values: npt.NDArray[Any], task: TaskSpec) -> RGB:
    """Draws labels of one task.

    Args:
        values: Class ids (...), probabilities (...) in [0, 1], or unit normals (...,3).
        task: The task.

    Returns:
        Colours (...,3) uint8: class colours (white where 255), edges dark on white, saliency from
        black over red to light yellow, normals as (n+1)/2.
    """
    colors: RGB
    if task.kind == "classes":
        colors = class_colors(task)[values]
    elif task.kind == "normals":
        colors = np.rint((values + 1) * 127.5).clip(0, 255).astype(np.uint8)
    else:
        ramp = _ramp(EDGE_STOPS if task.name == "edges" else HEAT_STOPS)
        colors = ramp[np.rint(values * 255).astype(np.uint8)]
    return colors


def draw_composite(prediction: Prediction) -> Image.Image:
    """Draws each pixel in the drawing of the task that was asked for there.

    Returns:
        RGB picture of the image's own size: see :func:`colorize`; a light hatch where nothing was
        asked. A thin white line with dark rims parts regions of different tasks; it is left out
        where regions are so small that it would cover them, as with the random rule.
    """
    canvas = _paint(prediction)
    _outline(canvas, prediction.palette.ids)
    return Image.fromarray(canvas)


def overlay(prediction: Prediction, alpha: float = ALPHA) -> Image.Image:
    """Draws the composite over the photograph, with its legend beside or below it.

    Background classes and regions where nothing was asked show more of the photograph.

    Args:
        prediction: The prediction.
        alpha: Share of the composite, 0 (photograph alone) to 1 (composite alone).

    Returns:
        RGB picture: the overlay, small images enlarged by a whole factor and images above 1600
        pixels scaled down, on a white page with the legend.

    Raises:
        ValueError: If alpha is out of range.
    """
    _check_alpha(alpha)
    size = _shown_size(prediction.palette.size)
    picture = _blend(prediction, alpha, size)
    return _framed(picture, lambda font_size: _blocks(prediction, font_size))


def side_by_side(prediction: Prediction, alpha: float = ALPHA) -> Image.Image:
    """Draws the photograph and, on its right, the composite over it as :func:`overlay` does.

    Args:
        prediction: The prediction.
        alpha: Share of the composite, 0 to 1.

    Returns:
        RGB picture as high as the photograph and twice as wide, without a legend: frames of a
        video keep their size.

    Raises:
        ValueError: If alpha is out of range.
    """
    _check_alpha(alpha)
    size = prediction.palette.size
    blended = np.array(_blend(prediction, alpha, size))
    return Image.fromarray(np.concatenate([prediction.image, blended], 1))


def draw_palette(
    palette: Palette, image: RGB | None = None, alpha: float = PALETTE_ALPHA
) -> Image.Image:
    """Draws a palette in the fixed colours of its tasks, with a legend.

    Args:
        palette: The palette.
        image: Photograph (H,W,3) uint8 of the palette's size to draw it over; None for none.
        alpha: Share of the palette over a photograph, 0 to 1.

    Returns:
        RGB picture: regions in their tasks' colours, a light hatch (over a photograph: nothing)
        where nothing is asked, each task with its share in the legend; scaled as by
        :func:`overlay`.

    Raises:
        ValueError: If the photograph has another size, or alpha is out of range.
    """
    _check_alpha(alpha)
    if image is not None and image.shape[:2] != palette.size:
        raise ValueError(
            f"the palette is {palette.size} (height, width), the image {image.shape[:2]}; give the "
            "photograph that it was made for."
        )
    height, width = _shown_size(palette.size)
    shown = palette.resize((height, width))
    asked = shown.ids != IGNORE
    canvas = _hatched(shown.ids) if image is None else _resized(image, (height, width)).copy()
    colors = _task_colors(palette)[shown.ids[asked]]
    under = canvas[asked].astype(np.float32)
    share = 1 if image is None else alpha
    canvas[asked] = np.rint(under + share * (colors - under)).astype(np.uint8)
    _outline(canvas, shown.ids)
    hatched = image is None
    return _framed(
        Image.fromarray(canvas), lambda font_size: _palette_blocks(palette, hatched, font_size)
    )


def legend(
    prediction: Prediction, font_size: int = 16, limit: int | None = None, down: bool = True
) -> Image.Image:
    """Explains a picture: which task was asked for where, and what its colours mean.

    Args:
        prediction: The prediction.
        font_size: Height of the text in pixels.
        limit: Pixels after which blocks go on in a new column (``down``) or line; None: never.
        down: Put blocks below each other rather than side by side.

    Returns:
        RGB picture: a small map of the palette where several tasks were asked for, and for each
        task its colour in that map, its share of the image and its colours, with the names of
        those classes that occur.
    """
    return _arranged(_blocks(prediction, font_size), font_size, limit, down)


def _arranged(blocks: list[Image.Image], gap: int, limit: int | None, down: bool) -> Image.Image:
    """Puts the blocks of a legend on one canvas; see :func:`legend`."""
    places, along, across, line = [], 0, 0, 0
    right = bottom = 0
    for block in blocks:
        length, breadth = (block.height, block.width) if down else (block.width, block.height)
        if along and limit is not None and along + length > limit:
            along, across, line = 0, across + line + gap, 0
        places.append((across, along) if down else (along, across))
        right = max(right, places[-1][0] + block.width)
        bottom = max(bottom, places[-1][1] + block.height)
        along += length + gap
        line = max(line, breadth)
    canvas = Image.new("RGB", (right, bottom), WHITE)
    for block, place in zip(blocks, places, strict=True):
        canvas.paste(block, place)
    return canvas


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is a share from 0 to 1; got {alpha}.")


def _shown_size(size: Size) -> Size:
    """Chooses the size of a picture on a page: small ones are enlarged, large ones scaled down."""
    longest = max(size)
    scale = min(1, LARGEST / longest) if longest > READABLE else round(READABLE / longest)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resized(values: npt.NDArray[Any], size: Size) -> npt.NDArray[Any]:
    if values.shape[:2] == size:
        return values
    reduced = max(size) < max(values.shape[:2])
    method = Image.Resampling.BOX if reduced else Image.Resampling.NEAREST
    return np.array(Image.fromarray(values).resize((size[1], size[0]), method))


def _blend(prediction: Prediction, alpha: float, size: Size) -> Image.Image:
    """Draws the composite over the photograph, with boundaries, at a size (height, width)."""
    drawn, photo, shares = (
        np.asarray(_resized(x, size), np.float32)
        for x in (_paint(prediction), prediction.image, _shares(prediction, alpha))
    )
    mixed = photo + shares[..., None] * (drawn - photo)
    canvas = np.rint(mixed).clip(0, 255).astype(np.uint8)
    _outline(canvas, prediction.palette.resize(size).ids)
    return Image.fromarray(canvas)


def _task_colors(palette: Palette) -> RGB:
    """Returns the colour of each task id (256,3), white where nothing is asked."""
    colors = np.full((256, 3), 255, np.uint8)
    colors[: len(palette.tasks)] = [get_task(name).color for name in palette.tasks]
    return colors


def _hatched(ids: npt.NDArray[np.uint8]) -> RGB:
    """Draws a canvas (H,W,3), hatched if anywhere nothing is asked."""
    canvas = np.full((*ids.shape, 3), HATCH[0], np.uint8)
    if (ids == IGNORE).any():
        period = max(4, _text_size((ids.shape[0], ids.shape[1])) // 2)
        rows, columns = (np.arange(n, dtype=np.int32) for n in ids.shape)
        canvas[(rows[:, None] + columns) % (2 * period) < period] = HATCH[1]
    return canvas


def _paint(prediction: Prediction) -> RGB:
    """Draws the composite without boundaries."""
    canvas = _hatched(prediction.palette.ids)
    for task, values in prediction.labels.items():
        mask = prediction.palette.mask(task)
        canvas[mask] = colorize(values[mask], get_task(task))
    return canvas


def _shares(prediction: Prediction, alpha: float) -> npt.NDArray[np.float32]:
    """Shares (H,W) of the composite in an overlay."""
    shares = np.full(prediction.palette.size, alpha, np.float32)
    shares[prediction.palette.ids == IGNORE] *= 0.4
    for task, values in prediction.labels.items():
        if get_task(task).kind == "classes":
            shares[values == 0] *= 0.5
    return shares


def _text_size(size: tuple[int, int]) -> int:
    """Chooses the height of text that is readable beside a picture (height, width)."""
    return max(14, round(math.sqrt(size[0] * size[1]) / 38))


def _outline(canvas: RGB, ids: npt.NDArray[np.uint8]) -> None:
    """Draws the boundaries of a palette (H,W) into a picture (H,W,3)."""
    line = np.zeros(ids.shape, bool)
    line[:, 1:] = ids[:, 1:] != ids[:, :-1]
    line[1:] |= ids[1:] != ids[:-1]
    if line.mean() > BUSY:
        return
    for _ in range(_text_size(ids.shape) // 28):
        line = _grown(line)
    rim = _grown(line)
    canvas[rim] = canvas[rim] // 2
    canvas[line] = WHITE


def _grown(mask: Mask) -> Mask:
    """Adds the four neighbours of each pixel."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def _framed(picture: Image.Image, blocks: Callable[[int], list[Image.Image]]) -> Image.Image:
    """Puts a picture and its legend, whose blocks depend on the font's size, on a white page."""
    size = _text_size((picture.height, picture.width))
    beside = picture.width < 1.5 * picture.height
    limit = max(picture.height if beside else picture.width, 20 * size)
    key = _arranged(blocks(size), size, limit, beside)
    if beside:
        extent = picture.width + key.width + 3 * size, max(picture.height, key.height) + 2 * size
        corner = picture.width + 2 * size, size
    else:
        extent = max(picture.width, key.width) + 2 * size, picture.height + key.height + 3 * size
        corner = size, picture.height + 2 * size
    page = Image.new("RGB", extent, WHITE)
    page.paste(picture, (size, size))
    page.paste(key, corner)
    return page


@dataclass(frozen=True)
class _Row:
    """A line of a legend: colours (k,3) from left to right, and what they mean."""

    colors: RGB
    text: str


def _rows(prediction: Prediction, task: TaskSpec) -> list[_Row]:
    """Lists the colours of a task, for classes those that occur, frequent ones first."""
    if task.kind == "probability":
        ramp = colorize(np.linspace(0, 1, 256, dtype=np.float32), task)
        return [_Row(ramp, "no edge to edge" if task.name == "edges" else "not salient to salient")]
    if task.kind == "normals":
        return [
            _Row(colorize(np.array([normal], np.float32), task), text)
            for text, normal in NORMAL_EXAMPLES
        ]
    counts = np.bincount(prediction.labels[task.name].ravel(), minlength=256)[: len(task.classes)]
    found = [i for i in np.argsort(-counts, kind="stable") if counts[i]]
    return [_Row(colorize(np.array([i]), task), task.classes[i]) for i in found]


def _blocks(prediction: Prediction, font_size: int) -> list[Image.Image]:
    """Draws the parts of a legend: the map of the palette, then one block for each task."""
    palette = prediction.palette
    shares = palette.shares()
    blocks = []
    if len(shares) + (IGNORE in palette.ids) > 1:
        blocks.append(_map(palette, font_size))
    for name, share in shares.items():
        task = get_task(name)
        blocks.append(_block(task.title, task.color, share, _rows(prediction, task), font_size))
    return blocks + _idle_block(palette, font_size)


def _palette_blocks(palette: Palette, hatched: bool, font_size: int) -> list[Image.Image]:
    """Draws the parts of a palette's own legend: a block for each task."""
    blocks = []
    for name, share in palette.shares().items():
        task = get_task(name)
        blocks.append(_block(task.title, task.color, share, [], font_size))
    return blocks + _idle_block(palette, font_size, hatched)


def _idle_block(palette: Palette, font_size: int, hatched: bool = True) -> list[Image.Image]:
    """Draws the block of what nothing is asked for, if there is any."""
    idle = float((palette.ids == IGNORE).mean())
    if not idle:
        return []
    hatch = np.array([HATCH[i // 4 % 2] for i in range(32)], np.uint8)
    rows = [_Row(hatch, "hatched")] if hatched else []
    return [_block("nothing asked", WHITE, idle, rows, font_size)]


def _map(palette: Palette, font_size: int) -> Image.Image:
    """Draws the palette small, in the colours of the tasks, under a title."""
    height, width = palette.size
    scale = 9 * font_size / max(height, width)
    extent = max(1, round(width * scale)), max(1, round(height * scale))
    small = Image.fromarray(_task_colors(palette)[palette.ids]).resize(
        extent, Image.Resampling.NEAREST
    )
    font = ImageFont.load_default(font_size)
    title = "what was asked where"
    head = round(1.6 * font_size)
    canvas = Image.new(
        "RGB", (max(extent[0], round(font.getlength(title))) + 2, extent[1] + head + 2), WHITE
    )
    draw = ImageDraw.Draw(canvas)
    draw.text((0, 0), title, INK, font)
    canvas.paste(small, (1, head + 1))
    draw.rectangle((0, head, extent[0] + 1, head + extent[1] + 1), outline=FAINT)
    return canvas


def _block(title: str, color: Color, share: float, rows: list[_Row], font_size: int) -> Image.Image:
    """Draws a task's block: its colour, title and share, then its rows."""
    font, small = (ImageFont.load_default(size) for size in (font_size, 0.85 * font_size))
    step, chip = round(1.4 * font_size), font_size
    columns = 1 if len(rows) <= 8 else 2
    per_column = -(-len(rows) // columns)
    ramp = any(len(row.colors) > 1 for row in rows)
    swatch = round((4 if ramp else 1.6) * font_size)
    text_at = swatch + font_size // 2
    stride = (
        text_at + font_size + round(max((small.getlength(row.text) for row in rows), default=0))
    )
    percent = f"{share:.0%}" if share >= 0.005 else "<1%"
    head = chip + font_size // 2
    title_end = head + round(font.getlength(title)) + font_size // 2
    width = max(title_end + round(font.getlength(percent)), stride * columns - font_size)
    canvas = Image.new("RGB", (width, round(1.6 * font_size) + per_column * step), WHITE)
    draw = ImageDraw.Draw(canvas)
    draw.rounded_rectangle((0, 1, chip, chip + 1), font_size // 5, color, FAINT)
    draw.text((head, 0), title, INK, font)
    draw.text((title_end, 0), percent, FAINT, font)
    for i, row in enumerate(rows):
        left, top = stride * (i // per_column), round(1.6 * font_size) + step * (i % per_column)
        strip = Image.fromarray(row.colors[None]).resize((swatch, font_size))
        canvas.paste(strip, (left, top))
        draw.rectangle((left, top, left + swatch - 1, top + font_size - 1), outline=FAINT)
        draw.text((left + text_at, top), row.text, INK, small)
    return canvas
