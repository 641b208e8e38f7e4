"""Draws the complexity figure: what each system needs for one composite and five dense tasks."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageDraw, ImageFont

from tools.complexity import SYSTEM_NAMES, Complexity, Cost, SystemCost

INK, FAINT, WHITE = (40, 40, 40), (150, 150, 150), (255, 255, 255)
COMPOSITE, DENSE = (31, 119, 180), (174, 199, 232)
"""Colors of the bars."""

FONT = 20
"""Height of the text in pixels."""

PANEL = 400
"""Width of a panel in pixels."""

Panel = tuple[str, str, Callable[[SystemCost, Cost], float]]

PANELS: tuple[Panel, ...] = (
    ("Parameters (M)", ".1f", lambda system, _: system.parameters / 1e6),
    ("Multiply-adds (G)", ".1f", lambda _, cost: cost.macs / 1e9),
    ("Peak memory (MiB)", ".0f", lambda _, cost: cost.peak_bytes / 2**20),
    ("Time (CTN's composite = 1)", ".2f", lambda _, cost: cost.ratio),
)


def draw(complexity: Complexity) -> Image.Image:
    """Draws a row of panels for each size, bars from zero with their values."""
    sizes = list(dict.fromkeys(cost.size for cost in complexity.systems))
    height = round(11.5 * FONT)
    canvas = Image.new("RGB", (PANEL * len(PANELS), 2 * FONT + height * len(sizes)), WHITE)
    pen = ImageDraw.Draw(canvas)
    _legend(pen, complexity)
    for line, size in enumerate(sizes):
        systems = [cost for cost in complexity.systems if cost.size == size]
        for column, panel in enumerate(PANELS):
            _panel(pen, (column * PANEL + FONT, 2 * FONT + line * height), panel, systems)
    return canvas


def _legend(pen: ImageDraw.ImageDraw, complexity: Complexity) -> None:
    font = ImageFont.load_default(FONT)
    left: float = FONT
    for color, text in ((COMPOSITE, "one composite"), (DENSE, "five dense tasks")):
        pen.rectangle((left, 12, left + FONT, 12 + FONT), color)
        pen.text((left + 1.5 * FONT, 8), text, INK, font)
        left += 3 * FONT + font.getlength(text)
    side = complexity.side
    pen.text((left, 8), f"{side} x {side}, batch 1, {complexity.threads} threads", FAINT, font)


def _panel(
    pen: ImageDraw.ImageDraw, corner: tuple[int, int], panel: Panel, systems: list[SystemCost]
) -> None:
    title, form, value = panel
    font, small = ImageFont.load_default(FONT), ImageFont.load_default(0.8 * FONT)
    left, top = corner
    pen.text((left, top + FONT // 2), f"{title}, {systems[0].size}", INK, font)
    start, room = left + 3 * FONT, PANEL - 8 * FONT
    most = max(
        value(system, cost) for system in systems for cost in (system.composite, system.dense)
    )
    for number, system in enumerate(systems):
        y = top + round((2.2 + 3 * number) * FONT)
        pen.text((left, y + FONT // 2), SYSTEM_NAMES[system.system], INK, font)
        for cost, color in ((system.composite, COMPOSITE), (system.dense, DENSE)):
            amount = value(system, cost)
            end = start + max(1, round(room * amount / most))
            pen.rectangle((start, y, end, y + FONT), color)
            pen.text((end + FONT // 3, y), format(amount, form), INK, small)
            y += round(1.2 * FONT)
