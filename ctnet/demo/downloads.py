"""Files that a page hands out: palette, labels and picture."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ctnet.demo.studio import Studio
from ctnet.demo.views import OVERLAY, draw
from ctnet.prediction.prediction import Prediction
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
    """Writes the view at the size at which the photograph is kept, models side by side."""
    pictures = [_large(studio.whole(model), view) for model in models]
    width = sum(picture.width for picture in pictures) + GAP * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + GAP
    path = studio.folder / f"{studio.photo.name}_{view}.png"
    save_png(sheet, path)
    return path


def _large(prediction: Prediction, view: str) -> Image.Image:
    # The page shows its legend beside the picture; a file needs its own.
    if view == OVERLAY:
        return prediction.overlay()
    return draw(prediction, view)
