"""How soon the demo's picture changes after a stroke, in a real browser (extra [demo])."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

from ctnet.demo.server import serve
from ctnet.profiling.measure import cpu_name, quartiles
from tools.pages import replace_marked

EXAMPLE = "astronaut"
REST = 400
"""Milliseconds between strokes, in which the page comes to rest."""

WATCH = """() => {
  const canvas = document.querySelector("#painter canvas");
  const pictures = document.querySelector("#views .pictures");
  let began = null;
  window.delays = [];
  canvas.addEventListener("pointerdown", () => { began = performance.now(); }, true);
  new MutationObserver(() => {
    if (began !== null) window.delays.push(performance.now() - began);
    began = null;
  }).observe(pictures, { attributes: true, attributeFilter: ["data-number"] });
}"""


@dataclass(frozen=True)
class Delay:
    """Time from touching the canvas to the first changed picture.

    Attributes:
        models: Names of the models that answer.
        milliseconds: First quartile, median and third quartile.
        limit: Largest median that is allowed.
    """

    models: tuple[str, ...]
    milliseconds: tuple[float, float, float]
    limit: float


@dataclass(frozen=True)
class Delays:
    """All delays, and where they were measured.

    Attributes:
        device: The processor.
        threads: Its cores.
        strokes: Strokes measured for each.
        delays: What was found.
    """

    device: str
    threads: int
    strokes: int
    delays: tuple[Delay, ...]

    def table(self) -> str:
        """Writes the table of the page."""
        lines = ["| Answers | First changed picture | Quartiles | Limit |", "|---|---|---|---|"]
        for entry in self.delays:
            low, median, high = entry.milliseconds
            names = " and ".join(f"`{name}`" for name in entry.models)
            quartiles = f"{low:.0f} to {high:.0f} ms"
            lines.append(f"| {names} | {median:.0f} ms | {quartiles} | {entry.limit:.0f} ms |")
        place = f"{self.strokes} strokes each on {self.threads} cores of an {self.device}."
        return "\n".join([*lines, "", place])


def measure(strokes: int) -> Delays:
    """Measures a brush's strokes in Debian's Chromium, headless.

    Args:
        strokes: How many for each choice of models.

    Raises:
        FileNotFoundError: If there is no Chromium.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise FileNotFoundError("there is no Chromium here: apt-get install chromium")
    running = serve("ctn-r1", device="cpu")
    try:
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(running.url)
            page.click(f"#examples button[data-name={EXAMPLE}]")
            page.wait_for_selector("#views figure img[src]")
            page.evaluate(WATCH)
            found = [_delay(page, ("ctn-r1",), strokes, 100)]
            page.click("#other input")
            page.get_by_role("option", name="ctn-r2:").click()
            page.wait_for_selector("#views figure:nth-child(2)")
            found.append(_delay(page, ("ctn-r1", "ctn-r2"), strokes, 250))
            browser.close()
    finally:
        running.close()
    return Delays(cpu_name(), os.cpu_count() or 1, strokes, tuple(found))


def _delay(page: Page, models: tuple[str, ...], strokes: int, limit: float) -> Delay:
    generator = np.random.default_rng(0)
    box = page.locator("#painter canvas").bounding_box()
    if box is None:
        raise ValueError("the demo shows no canvas.")
    page.wait_for_timeout(3 * REST)
    page.evaluate("window.delays = []")
    # The first stroke makes what the later ones reuse, and is left out.
    for number in range(strokes + 1):
        page.keyboard.press(str(1 + number % 5))
        across, down = generator.uniform(0.1, 0.9, 2)
        page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
        page.mouse.down()
        page.wait_for_function("n => window.delays.length > n", arg=number)
        page.mouse.up()
        page.wait_for_timeout(REST)
    delays = page.evaluate("window.delays")[1 : strokes + 1]
    low, median, high = quartiles(delays)
    return Delay(models, (round(low, 1), round(median, 1), round(high, 1)), limit)


def save(found: Delays, path: Path) -> None:
    """Writes delays as JSON."""
    path.write_text(json.dumps(asdict(found), indent=1) + "\n", "utf-8")


def write_page(found: Delays, page: Path) -> None:
    """Writes the table of a page."""
    text = replace_marked(page.read_text("utf-8"), "delays", found.table())
    page.write_text(text, "utf-8")
