"""Time and memory of a model on this machine, against image size and batch: table and plot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ctnet.data.palette_batches import make_palettes
from ctnet.models.base import CompositeModel
from ctnet.profiling.measure import peak_bytes, time_in_turn
from ctnet.rules import Rule

COLORS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189))
INK, FAINT, WHITE = (40, 40, 40), (210, 210, 210), (255, 255, 255)
PANEL = (520, 360)
MARGIN = (70, 50)


@dataclass(frozen=True)
class Point:
    """The cost of a model at one size and batch.

    Attributes:
        side: Height and width in pixels.
        batch: Images at once.
        milliseconds: Median time of a batch.
        megabytes: Most memory (MiB) of tensors alive at once, beyond weights and inputs.
    """

    side: int
    batch: int
    milliseconds: float
    megabytes: float


@torch.inference_mode()
def bench(
    model: CompositeModel,
    rule: Rule,
    sides: Sequence[int] = (128, 256, 512),
    batches: Sequence[int] = (1, 2, 4),
    rounds: int = 5,
    threads: int | None = None,
) -> list[Point]:
    """Measures a model in eval mode, fused or not.

    Args:
        model: The model.
        rule: What makes the palettes; one that needs no labels.
        sides: Sides of square images in pixels.
        batches: Numbers of images at once.
        rounds: Rounds of timing.
        threads: Threads of torch on a CPU, None for as many as torch takes.

    Raises:
        ValueError: If a number is below 1, or the rule needs labels.
    """
    if min((*sides, *batches, rounds, 1 if threads is None else threads)) < 1:
        raise ValueError("sides, batches, rounds and threads are at least 1.")
    if rule.needs_labels:
        raise ValueError(f"rule {rule.name} needs class maps; take R1, Rrnd or single:TASK.")
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    first = next(model.parameters())
    points = []
    try:
        for side in sides:
            for batch in batches:
                image = torch.rand(batch, 3, side, side, device=first.device, dtype=first.dtype)
                image = image.contiguous(memory_format=torch.channels_last)
                generator = np.random.default_rng(0)
                palette = make_palettes(
                    rule, batch, (side, side), generator, model.tasks, device=first.device
                )
                run = partial(model, image, palette)
                timing = time_in_turn({"model": run}, rounds)["model"]
                known = [*model.parameters(), *model.buffers(), image, palette]
                memory = peak_bytes(run, known) / 2**20
                points.append(Point(side, batch, timing.milliseconds, memory))
    finally:
        torch.set_num_threads(before)
    return points


def table(points: Sequence[Point]) -> str:
    """Returns a Markdown table, a row a point."""
    lines = [
        "| Image | Batch | Time | Images a second | Memory |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {p.side} x {p.side} | {p.batch} | {p.milliseconds:.1f} ms | "
        f"{1000 * p.batch / p.milliseconds:.1f} | {p.megabytes:.1f} MiB |"
        for p in points
    ]
    return "\n".join(lines)


def draw(points: Sequence[Point], title: str) -> Image.Image:
    """Draws time and memory against the side, both axes logarithmic, one line a batch."""
    width, height = PANEL
    canvas = Image.new("RGB", (2 * width, height + 30), WHITE)
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN[0], 8), title, INK, ImageFont.load_default(16))
    _panel(pen, 0, "time (ms)", points, lambda point: point.milliseconds)
    _panel(pen, width, "memory (MiB)", points, lambda point: point.megabytes)
    for number, batch in enumerate(sorted({point.batch for point in points})):
        x = MARGIN[0] + 110 * number
        color = COLORS[number % len(COLORS)]
        pen.line((x, height + 14, x + 24, height + 14), color, 3)
        pen.text((x + 30, height + 6), f"batch {batch}", INK, ImageFont.load_default(14))
    return canvas


def _panel(
    pen: ImageDraw.ImageDraw,
    left: int,
    title: str,
    points: Sequence[Point],
    value: Callable[[Point], float],
) -> None:
    font = ImageFont.load_default(12)
    sides = sorted({point.side for point in points})
    low, high = (f(value(point) for point in points) for f in (min, max))

    def place(number: float, first: float, last: float) -> float:
        return float(np.log(number / first) / np.log(last / first)) if last > first else 0.5

    def at(side: int, amount: float) -> tuple[float, float]:
        x, y = place(side, sides[0], sides[-1]), place(amount, low, high)
        inner = PANEL[0] - 2 * MARGIN[0], PANEL[1] - 2 * MARGIN[1]
        return left + MARGIN[0] + x * inner[0], PANEL[1] - MARGIN[1] - y * inner[1]

    pen.text((left + MARGIN[0], 30), title, INK, font)
    for side in sides:
        x, bottom = at(side, low)
        pen.line((x, at(side, high)[1], x, bottom), FAINT)
        pen.text((x - 10, bottom + 6), str(side), INK, font)
    for amount in (low, high):
        pen.text((left + 8, at(sides[0], amount)[1] - 6), f"{amount:.3g}", INK, font)
    for number, batch in enumerate(sorted({point.batch for point in points})):
        line = [at(p.side, value(p)) for p in sorted(points, key=_side) if p.batch == batch]
        color = COLORS[number % len(COLORS)]
        pen.line(line, color, 2)
        for x, y in line:
            pen.ellipse((x - 3, y - 3, x + 3, y + 3), color)


def _side(point: Point) -> int:
    return point.side
