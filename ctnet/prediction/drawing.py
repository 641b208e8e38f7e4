"""Labels to pictures: each region in the drawing of its task, with a legend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ctnet.images import RGB
from ctnet.palette import Palette, Size
from ctnet.prediction.colors import HATCH, WHITE, colorize, task_colors
from ctnet.prediction.legend import Labels, arranged, label_blocks, palette_blocks, text_size
from ctnet.tasks import IGNORE, get_task

Mask = npt.NDArray[np.bool_]

ALPHA = 0.75
"""Share of the composite in an overlay."""

PALETTE_ALPHA = 0.55
"""Share of a palette that is drawn over a photograph."""

READABLE = 480
"""Overlays of images with a shorter longest side are enlarged by a whole factor."""

LARGEST = 1600
"""Longest side of overlays; those of larger images are scaled down."""

BUSY = 0.1
"""Share of boundary pixels above which boundaries would hide the picture and are not drawn."""


def draw_composite(palette: Palette, labels: Labels) -> Image.Image:
    """Draws each pixel in the drawing of the task that was asked for there.

    Returns:
        RGB picture of the image's own size: see :func:`colorize`; a light hatch where nothing was
        asked. A thin white line with dark rims parts regions of different tasks; it is left out
        where regions are so small that it would cover them, as with the random rule.
    """
    canvas = _paint(palette, labels)
    _outline(canvas, palette.ids)
    return Image.fromarray(canvas)


def draw_task(palette: Palette, labels: Labels, task: str) -> Image.Image:
    """Draws the labels of one task in its colors, hatched where it is not asked for.

    Returns:
        RGB picture of the image's own size.
    """
    ids = np.where(palette.mask(task), palette.ids, np.uint8(IGNORE))
    return Image.fromarray(_paint(Palette(ids, palette.tasks), {task: labels[task]}))


def overlay(image: RGB, palette: Palette, labels: Labels, alpha: float = ALPHA) -> Image.Image:
    """Draws the composite over the photograph, with its legend beside or below it.

    Background classes and regions where nothing was asked show more of the photograph.

    Args:
        image: The photograph (H,W,3) uint8.
        palette: What was asked for where.
        labels: By task name, as :class:`ctnet.Prediction` has them.
        alpha: Share of the composite, 0 (photograph alone) to 1 (composite alone).

    Returns:
        RGB picture: the overlay, small images enlarged by a whole factor and images above 1600
        pixels scaled down, on a white page with the legend.

    Raises:
        ValueError: If alpha is out of range.
    """
    _check_alpha(alpha)
    size = _shown_size(palette.size)
    picture = _blend(image, palette, labels, alpha, size)
    return _framed(picture, lambda font_size: label_blocks(palette, labels, font_size))


def side_by_side(image: RGB, palette: Palette, labels: Labels, alpha: float = ALPHA) -> Image.Image:
    """Draws the photograph and, on its right, the composite over it as :func:`overlay` does.

    Args:
        image: The photograph (H,W,3) uint8.
        palette: What was asked for where.
        labels: By task name, as :class:`ctnet.Prediction` has them.
        alpha: Share of the composite, 0 to 1.

    Returns:
        RGB picture as high as the photograph and twice as wide, without a legend: frames of a
        video keep their size.

    Raises:
        ValueError: If alpha is out of range.
    """
    _check_alpha(alpha)
    size = palette.size
    blended = np.array(_blend(image, palette, labels, alpha, size))
    return Image.fromarray(np.concatenate([image, blended], 1))


def draw_palette(
    palette: Palette, image: RGB | None = None, alpha: float = PALETTE_ALPHA
) -> Image.Image:
    """Draws a palette in the fixed colors of its tasks, with a legend.

    Args:
        palette: The palette.
        image: Photograph (H,W,3) uint8 of the palette's size to draw it over; None for none.
        alpha: Share of the palette over a photograph, 0 to 1.

    Returns:
        RGB picture: regions in their tasks' colors, a light hatch (over a photograph: nothing)
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
    colors = task_colors(palette)[shown.ids[asked]]
    under = canvas[asked].astype(np.float32)
    share = 1 if image is None else alpha
    canvas[asked] = np.rint(under + share * (colors - under)).astype(np.uint8)
    _outline(canvas, shown.ids)
    hatched = image is None
    return _framed(
        Image.fromarray(canvas), lambda font_size: palette_blocks(palette, hatched, font_size)
    )


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


def _blend(image: RGB, palette: Palette, labels: Labels, alpha: float, size: Size) -> Image.Image:
    """Draws the composite over the photograph, with boundaries, at a size (height, width)."""
    drawn, photo, shares = (
        np.asarray(_resized(x, size), np.float32)
        for x in (_paint(palette, labels), image, _shares(palette, labels, alpha))
    )
    mixed = photo + shares[..., None] * (drawn - photo)
    canvas = np.rint(mixed).clip(0, 255).astype(np.uint8)
    _outline(canvas, palette.resize(size).ids)
    return Image.fromarray(canvas)


def _hatched(ids: npt.NDArray[np.uint8]) -> RGB:
    """Draws a canvas (H,W,3), hatched if anywhere nothing is asked."""
    canvas = np.full((*ids.shape, 3), HATCH[0], np.uint8)
    if (ids == IGNORE).any():
        period = max(4, text_size((ids.shape[0], ids.shape[1])) // 2)
        rows, columns = (np.arange(n, dtype=np.int32) for n in ids.shape)
        canvas[(rows[:, None] + columns) % (2 * period) < period] = HATCH[1]
    return canvas


def _paint(palette: Palette, labels: Labels) -> RGB:
    """Draws the composite without boundaries."""
    canvas = _hatched(palette.ids)
    for task, values in labels.items():
        mask = palette.mask(task)
        canvas[mask] = colorize(values[mask], get_task(task))
    return canvas


def _shares(palette: Palette, labels: Labels, alpha: float) -> npt.NDArray[np.float32]:
    """Shares (H,W) of the composite in an overlay."""
    shares = np.full(palette.size, alpha, np.float32)
    shares[palette.ids == IGNORE] *= 0.4
    for task, values in labels.items():
        if get_task(task).kind == "classes":
            shares[values == 0] *= 0.5
    return shares


def _outline(canvas: RGB, ids: npt.NDArray[np.uint8]) -> None:
    """Draws the boundaries of a palette (H,W) into a picture (H,W,3)."""
    line = np.zeros(ids.shape, bool)
    line[:, 1:] = ids[:, 1:] != ids[:, :-1]
    line[1:] |= ids[1:] != ids[:-1]
    if line.mean() > BUSY:
        return
    for _ in range(text_size(ids.shape) // 28):
        line = _grown(line)
    rim = _grown(line)
    canvas[rim] = canvas[rim] // 2
    canvas[line] = WHITE


def _grown(mask: Mask) -> Mask:
    """Adds the four neighbors of each pixel."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


def _framed(picture: Image.Image, blocks: Callable[[int], list[Image.Image]]) -> Image.Image:
    """Puts a picture and its legend, whose blocks depend on the font's size, on a white page."""
    size = text_size((picture.height, picture.width))
    beside = picture.width < 1.5 * picture.height
    limit = max(picture.height if beside else picture.width, 20 * size)
    key = arranged(blocks(size), size, limit, beside)
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
