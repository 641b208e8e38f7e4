"""The pictures of the model cards: the photographs of ``examples/``, and what each model makes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import ctnet
from ctnet.images import load_image
from ctnet.tasks import get_task
from ctnet.zoo.manifest import ModelInfo, list_models, model_info

PHOTOGRAPHS = ("astronaut.jpg", "chelsea.jpg", "coffee.jpg")
SINGLE = ("parts", "saliency", "normals")
"""Tasks that a model of single tasks does on them."""

ALPHA = 0.6
"""Share of a palette over its photograph."""

CELL = 240
"""Side of a cell, in pixels."""

GAP = 6
LIMIT = 60_000
"""Most bytes of a picture."""

SEED = 42
"""Of mosaics and random palettes."""


def draw_cards(examples: Path, out: Path) -> list[Path]:
    """Draws the picture of every model of the zoo.

    Args:
        examples: Folder of the photographs.
        out: Folder of the pictures.

    Returns:
        What was written.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for info in map(model_info, list_models()):
        path = out / f"{info.name}.jpg"
        path.write_bytes(_small(_sheet(info, examples)))
        written.append(path)
    return written


def _sheet(info: ModelInfo, examples: Path) -> Image.Image:
    """Puts the photographs over the answers."""
    photographs = [examples / name for name in PHOTOGRAPHS]
    answers = [_answer(info, path, number) for number, path in enumerate(photographs)]
    stride = CELL + GAP
    sheet = Image.new("RGB", (stride * len(answers) - GAP, 2 * stride - GAP), "white")
    for column, (path, answer) in enumerate(zip(photographs, answers, strict=True)):
        for row, picture in enumerate((Image.fromarray(load_image(path)), answer)):
            cell = ImageOps.fit(picture.convert("RGB"), (CELL, CELL), Image.Resampling.LANCZOS)
            sheet.paste(cell, (column * stride, row * stride))
    return sheet


def _answer(info: ModelInfo, path: Path, number: int) -> Image.Image:
    """Draws what a model makes of a photograph under the rule that it was trained on."""
    if info.config["system"] == "palette":
        palette = ctnet.PaletteNetwork.from_pretrained(info.name).predict(path)
        colors = np.array([get_task(name).color for name in palette.tasks], np.uint8)
        return Image.blend(
            Image.open(path).convert("RGB"), Image.fromarray(colors[palette.ids]), ALPHA
        )
    # S asks for each task in turn; here each photograph is asked for another one.
    rule = f"single:{SINGLE[number]}" if info.rule == "S" else info.rule
    return ctnet.load(info.name).predict(path, rule, seed=SEED + number).draw()


def _small(picture: Image.Image) -> bytes:
    """Encodes a picture as the best JPEG that is small enough."""
    for quality in range(88, 20, -4):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality, optimize=True)
        if file.tell() <= LIMIT:
            break
    return file.getvalue()
