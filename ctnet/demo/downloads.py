"""Files that a page hands out: palette, labels and picture."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ctnet.demo.studio import Studio
from ctnet.demo.views import OVERLAY, draw, viewed_task
from ctnet.palette import Palette
from ctnet.prediction.colors import INK
from ctnet.prediction.legend import legend, text_size
from ctnet.prediction.prediction import Label, Prediction
from ctnet.prediction.result_files import save_png

GAP = 16
"""White pixels between the pictures of two models."""


def palette_file(studio: Studio) -> Path:
    """Writes the palette at the photograph's own size, as ``ctnet predict`` takes it."""
    path = studio.folder / f"{studio.photo.name}_palette.png"
    studio.sized_palette().save(path)
    return path


def labels_file(studio: Studio, models: Sequence[str]) -> Path:
    """Writes palette, composite and labels at the size at which the photograph is kept.

    Args:
        studio: The page's studio.
        models: The models; of several, each has a folder of its own in the file.

    Returns:
        A zip file.
    """
    path = studio.folder / f"{studio.photo.name}_labels.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for model in models:
            folder = studio.folder / model.replace("/", "_").replace(":", "_")
            prediction = studio.whole(model)
            written = list(prediction.save(folder, files="labels").values())
            written.append(folder / f"{prediction.name}_composite.png")
            save_png(prediction.draw(), written[-1])
            for entry in written:
                inside = f"{folder.name}/{entry.name}" if len(models) > 1 else entry.name
                file.write(entry, inside)
                entry.unlink()
    return path


def picture_file(studio: Studio, models: Sequence[str], view: str) -> Path:
    """Writes the view at the size at which the photograph is kept.

    Args:
        studio: The page's studio.
        models: The models; of several, pictures stand side by side under the models' names, over a
            legend.
        view: One of :func:`ctnet.demo.views.views`.
    """
    task = viewed_task(view, studio.palette.tasks)
    answers = [studio.whole(model) for model in models]
    everywhere = [None if task is None else studio.whole(x, task).labels[task] for x in models]
    # The page shows its legend beside the picture; a file needs its own.
    if view == OVERLAY:
        pictures = [answer.overlay() for answer in answers]
    else:
        pictures = [draw(x, view, labels) for x, labels in zip(answers, everywhere, strict=True)]
    sheet = pictures[0]
    if len(models) > 1:
        font_size = text_size(answers[0].palette.size)
        named = [_named(x, name, font_size) for x, name in zip(pictures, models, strict=True)]
        sheet = _beside(named)
        if view != OVERLAY:
            sheet = _over(sheet, _common_legend(answers, task, everywhere, font_size))
    path = studio.folder / f"{studio.photo.name}_{view}.png"
    save_png(sheet, path)
    return path


def _named(picture: Image.Image, name: str, font_size: int) -> Image.Image:
    sheet = Image.new("RGB", (picture.width, picture.height + 2 * font_size), "white")
    font = ImageFont.load_default(font_size)
    ImageDraw.Draw(sheet).text((0, font_size // 3), name, INK, font)
    sheet.paste(picture, (0, 2 * font_size))
    return sheet


def _beside(pictures: Sequence[Image.Image]) -> Image.Image:
    width = sum(picture.width for picture in pictures) + GAP * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + GAP
    return sheet


def _over(picture: Image.Image, below: Image.Image) -> Image.Image:
    width, height = max(picture.width, below.width), picture.height + GAP + below.height
    sheet = Image.new("RGB", (width, height), "white")
    sheet.paste(picture, (0, 0))
    sheet.paste(below, (0, picture.height + GAP))
    return sheet


def _common_legend(
    answers: Sequence[Prediction],
    task: str | None,
    everywhere: Sequence[Label | None],
    font_size: int,
) -> Image.Image:
    """Draws the legend of all answers together: a class is listed if any of them has it."""
    palette = answers[0].palette
    labels: dict[str, Label]
    if task is None:
        labels = {
            name: np.concatenate([answer.labels[name] for answer in answers])
            for name in answers[0].labels
        }
    else:
        palette = Palette.single(task, palette.size, palette.tasks)
        labels = {task: np.concatenate([values for values in everywhere if values is not None])}
    limit = len(answers) * (palette.size[1] + GAP)
    return legend(palette, labels, font_size, limit, down=False)
