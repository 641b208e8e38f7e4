"""Pictures of what a network in training does on a few photographs to validate on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ctnet.data.label_source import LabelSource
from ctnet.models.base import CompositeModel
from ctnet.palette import Palette

PHOTOGRAPHS = 4

HEIGHT = 160
"""Height of each picture in pixels."""

GAP = 4


def write_preview(model: CompositeModel, source: LabelSource, path: Path) -> Path:
    """Draws a few photographs, and beside each what the network answers to every task there.

    Args:
        model: The network.
        source: Photographs to validate on; they are taken evenly, and the tasks are those that
            any of them has a label for.
        path: Picture to write; one that is there is replaced.
    """
    count = min(PHOTOGRAPHS, len(source.ids))
    chosen = [number * len(source.ids) // count for number in range(count)]
    everywhere = range(len(source.ids))
    tasks = [task for task in model.tasks if any(source.kind(i, task) for i in everywhere)]
    rows = []
    for index in chosen:
        image = source.load(index)["image"]
        pictures = [Image.fromarray(image)]
        for task in tasks:
            palette = Palette(
                np.full(image.shape[:2], model.tasks.index(task), np.uint8), model.tasks
            )
            pictures.append(model.predict(image, palette).draw())
        rows.append([_scaled(picture) for picture in pictures])
    width = max(sum(picture.width + GAP for picture in row) for row in rows) - GAP
    sheet = Image.new("RGB", (width, len(rows) * (HEIGHT + GAP) - GAP), "white")
    for number, row in enumerate(rows):
        left = 0
        for picture in row:
            sheet.paste(picture, (left, number * (HEIGHT + GAP)))
            left += picture.width + GAP
    sheet.save(path)
    return path


def _scaled(picture: Image.Image) -> Image.Image:
    width = max(1, round(picture.width * HEIGHT / picture.height))
    return picture.convert("RGB").resize((width, HEIGHT), Image.Resampling.BILINEAR)
