"""Makes the README's picture: photographs, and what the zoo's models do on them.

Run from the root of the repository: ``python examples/showcase.py``.
"""

from pathlib import Path

from PIL import Image

import ctnet

HERE = Path(__file__).parent
OUT = HERE.parent / "docs" / "showcase.png"
ROWS = (
    ("astronaut.jpg", ("R2", "mosaic", "single:parts", "single:normals")),
    ("chelsea.jpg", ("R2", "mosaic", "single:saliency", "single:edges")),
)
CELL = (300, 300)
GAP = 8
SEED = 42
"""Of the mosaic: one that has four different tasks."""


def cell(picture: Image.Image) -> Image.Image:
    """Crops a picture around its center to the size of a cell."""
    scale = max(CELL[0] / picture.width, CELL[1] / picture.height)
    size = (round(picture.width * scale), round(picture.height * scale))
    picture = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    left, top = (size[0] - CELL[0]) // 2, (size[1] - CELL[1]) // 2
    return picture.crop((left, top, left + CELL[0], top + CELL[1]))


def main() -> None:
    """Draws the rows and writes the picture."""
    columns = 1 + len(ROWS[0][1])
    width = columns * (CELL[0] + GAP) - GAP
    height = len(ROWS) * (CELL[1] + GAP) - GAP
    sheet = Image.new("RGB", (width, height), "white")
    general, semantic = ctnet.load("ctn-r1"), ctnet.load("ctn-r2")
    for row, (file, palettes) in enumerate(ROWS):
        photo = HERE / file
        pictures = [Image.open(photo)]
        for name in palettes:
            model = semantic if name == "R2" else general
            pictures.append(model.predict(photo, name, seed=SEED).draw())
        for column, picture in enumerate(pictures):
            sheet.paste(cell(picture), (column * (CELL[0] + GAP), row * (CELL[1] + GAP)))
    OUT.parent.mkdir(exist_ok=True)
    sheet.save(OUT)
    print(OUT)


if __name__ == "__main__":
    main()
