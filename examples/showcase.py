"""Makes the README's picture: photographs, what is asked where, and what the networks answer.

Run from the root of the repository: ``python examples/showcase.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

import ctnet
from ctnet.prediction.colors import INK, task_colors
from ctnet.prediction.legend import arranged, label_blocks

HERE = Path(__file__).parent
OUT = HERE.parent / "docs" / "showcase.jpg"
CELL = (330, 250)
GAP = 12
HEAD = 26
FONT = 15
TITLES = ("photograph", "palette: which task where", "composite, one pass")


def around_a_cup() -> ctnet.Palette:
    """Paints a palette by hand, as in the demo."""
    return (
        ctnet.Palette.single("normals", (400, 600))
        .paint_polygon([(0, 0), (600, 0), (600, 60), (0, 150)], "edges")
        .paint_circle((275, 185), 190, "saliency")
    )


def along_a_street() -> ctnet.Palette:
    """Asks for classes where vehicles are, for edges above them."""
    roofs = [(0, 200), (60, 165), (375, 85), (475, 130), (490, 260), (546, 275)]
    street = [*roofs, (546, 413), (0, 413)]
    return ctnet.Palette.single("edges", (413, 546)).paint_polygon(street, "seg")


ROWS = (
    ("astronaut.jpg", "ctn-r1", "auto"),
    ("chelsea.jpg", "ctn-r2", "R2"),
    ("bus.jpg", "ctn-r1", along_a_street()),
    ("coffee.jpg", "ctn-r1", around_a_cup()),
)
"""Photograph, network and palette of each row: proposed, by a rule, and twice painted by hand."""


def row(photograph: Path, model: str, palette: str | ctnet.Palette) -> list[Image.Image]:
    """Draws photograph, palette, composite and legend."""
    prediction = ctnet.load(model).predict(photograph, palette)
    asked = task_colors(prediction.palette)[prediction.palette.ids]
    mixed = np.rint(0.4 * prediction.image + 0.6 * asked).astype(np.uint8)
    composite = prediction.side_by_side(0.9)
    half = (composite.width // 2, 0, composite.width, composite.height)
    pictures = [Image.fromarray(prediction.image), Image.fromarray(mixed), composite.crop(half)]
    blocks = label_blocks(prediction.palette, prediction.labels, FONT)[1:]
    legend = arranged(blocks, FONT, CELL[1], down=True)
    return [*(ImageOps.fit(picture, CELL, centering=(0.5, 0.2)) for picture in pictures), legend]


def main() -> None:
    """Draws the rows and writes the picture."""
    rows = [row(HERE / name, model, palette) for name, model, palette in ROWS]
    lefts = [column * (CELL[0] + GAP) for column in range(4)]
    width = lefts[3] + max(pictures[3].width for pictures in rows)
    sheet = Image.new("RGB", (width, HEAD + len(rows) * (CELL[1] + GAP) - GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
    for left, title in zip(lefts, TITLES, strict=False):
        pen.text((left, 0), title, INK, font)
    for number, pictures in enumerate(rows):
        for left, picture in zip(lefts, pictures, strict=True):
            sheet.paste(picture, (left, HEAD + number * (CELL[1] + GAP)))
    sheet.save(OUT, quality=88, optimize=True)
    print(f"{OUT}: {sheet.width} × {sheet.height}, {OUT.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
