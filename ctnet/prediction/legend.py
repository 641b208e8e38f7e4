"""Legends: which task was asked for where, and what the colors of a picture mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ctnet.images import RGB
from ctnet.palette import Palette
from ctnet.prediction.colors import (
    FAINT,
    HATCH,
    INK,
    NORMAL_EXAMPLES,
    WHITE,
    colorize,
    task_colors,
)  # fmt: skip
from ctnet.tasks import IGNORE, Color, TaskSpec, get_task

Labels = Mapping[str, npt.NDArray[Any]]
"""Labels by task name, as :class:`ctnet.Prediction` has them."""


@dataclass(frozen=True)
class Row:
    """A line of a legend: colors (k,3) from left to right, and what they mean."""

    colors: RGB
    text: str


def legend(
    palette: Palette,
    labels: Labels,
    font_size: int = 16,
    limit: int | None = None,
    down: bool = True,
) -> Image.Image:
    """Explains a picture: which task was asked for where, and what its colors mean.

    Args:
        palette: What was asked for where.
        labels: By task name, as :class:`ctnet.Prediction` has them.
        font_size: Height of the text in pixels.
        limit: Pixels after which blocks go on in a new column (``down``) or line; None: never.
        down: Put blocks below each other rather than side by side.

    Returns:
        RGB picture: a small map of the palette where several tasks were asked for, and for each
        task its color in that map, its share of the image and its colors, with the names of
        those classes that occur.
    """
    return arranged(label_blocks(palette, labels, font_size), font_size, limit, down)


def arranged(blocks: list[Image.Image], gap: int, limit: int | None, down: bool) -> Image.Image:
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


def text_size(size: tuple[int, int]) -> int:
    """Chooses the height of text that is readable beside a picture (height, width)."""
    return max(14, round(math.sqrt(size[0] * size[1]) / 38))


def label_blocks(palette: Palette, labels: Labels, font_size: int) -> list[Image.Image]:
    """Draws the parts of a legend: the map of the palette, then one block for each task."""
    shares = palette.shares()
    blocks = []
    if len(shares) + (IGNORE in palette.ids) > 1:
        blocks.append(_map(palette, font_size))
    for name, share in shares.items():
        task = get_task(name)
        blocks.append(_block(task.title, task.color, share, _rows(labels, task), font_size))
    return blocks + _idle_block(palette, font_size)


def palette_blocks(palette: Palette, hatched: bool, font_size: int) -> list[Image.Image]:
    """Draws the parts of a palette's own legend: a block for each task."""
    blocks = []
    for name, share in palette.shares().items():
        task = get_task(name)
        blocks.append(_block(task.title, task.color, share, [], font_size))
    return blocks + _idle_block(palette, font_size, hatched)


def _rows(labels: Labels, task: TaskSpec) -> list[Row]:
    """Lists the colors of a task, for classes those that occur, frequent ones first."""
    if task.kind == "probability":
        ramp = colorize(np.linspace(0, 1, 256, dtype=np.float32), task)
        return [Row(ramp, "no edge to edge" if task.name == "edges" else "not salient to salient")]
    if task.kind == "normals":
        return [
            Row(colorize(np.array([normal], np.float32), task), text)
            for text, normal in NORMAL_EXAMPLES
        ]
    counts = np.bincount(labels[task.name].ravel(), minlength=256)[: len(task.classes)]
    found = [i for i in np.argsort(-counts, kind="stable") if counts[i]]
    return [Row(colorize(np.array([i]), task), task.classes[i]) for i in found]


def _idle_block(palette: Palette, font_size: int, hatched: bool = True) -> list[Image.Image]:
    """Draws the block of what nothing is asked for, if there is any."""
    idle = float((palette.ids == IGNORE).mean())
    if not idle:
        return []
    hatch = np.array([HATCH[i // 4 % 2] for i in range(32)], np.uint8)
    rows = [Row(hatch, "hatched")] if hatched else []
    return [_block("nothing asked", WHITE, idle, rows, font_size)]


def _map(palette: Palette, font_size: int) -> Image.Image:
    """Draws the palette small, in the colors of the tasks, under a title."""
    height, width = palette.size
    scale = 9 * font_size / max(height, width)
    extent = max(1, round(width * scale)), max(1, round(height * scale))
    small = Image.fromarray(task_colors(palette)[palette.ids]).resize(
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


def _block(title: str, color: Color, share: float, rows: list[Row], font_size: int) -> Image.Image:
    """Draws a task's block: its color, title and share, then its rows."""
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
