"""Makes the README's picture of the demo: serves it, paints in a headless Chromium, and saves it.

Run from the root of the repository: ``python examples/demo_screenshot.py --out docs/demo.png``;
``--width 390`` shows it on a phone.
"""

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from ctnet.demo.server import serve

NORMALS, SALIENCY = "4", "3"
SIZE = 320, 320
"""Width and height at which networks see the example."""


def wait(page: Page) -> None:
    """Waits until the answers to all that was done are shown."""
    seen = ""
    while True:
        page.wait_for_timeout(1500)
        number = page.locator("#views .pictures").get_attribute("data-number") or ""
        if number and number == seen:
            return
        seen = number


def drag(page: Page, *points: tuple[float, float]) -> None:
    """Drags over the painter, through pixels of the working size."""
    canvas = page.locator("#painter canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    scale = box["width"] / SIZE[0]
    for index, (x, y) in enumerate(points):
        page.mouse.move(box["x"] + x * scale, box["y"] + y * scale, steps=8)
        if index == 0:
            page.mouse.down()
    page.mouse.up()


def paint(page: Page) -> None:
    """Takes an example, lets the palette network propose, and paints over it."""
    page.click("#examples button[data-name=astronaut]")
    wait(page)
    page.click(f"#painter [data-task='{SALIENCY}']")
    page.click("#painter [data-tool=box]")
    drag(page, (222, 6), (312, 118))
    wait(page)
    page.click(f"#painter [data-task='{NORMALS}']")
    page.click("#painter [data-tool=brush]")
    page.locator("#painter [data-size]").fill("22")
    drag(page, (212, 300), (232, 250), (270, 236), (306, 262), (296, 300), (250, 286))
    wait(page)
    page.evaluate("document.activeElement.blur()")
    page.mouse.move(2, 2)
    page.evaluate("window.scrollTo(0, 0)")
    wait(page)


def main() -> None:
    """Writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/demo.png"))
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--dark", action="store_true")
    args = parser.parse_args()
    server = serve("ctn-r1", device="cpu")
    with sync_playwright() as play:
        chromium = shutil.which("chromium")
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": args.width, "height": 844},
            color_scheme="dark" if args.dark else "light",
        )
        page.set_default_timeout(120_000)
        page.goto(server.url)
        page.wait_for_selector("#painter .drop")
        paint(page)
        picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
        browser.close()
    server.close()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    # The maximum of coverage keeps the colors of small things, such as a legend's, true.
    few = picture.quantize(256, Image.Quantize.MAXCOVERAGE)
    few = picture.quantize(palette=few, dither=Image.Dither.FLOYDSTEINBERG)
    few.save(args.out, optimize=True)
    print(f"{args.out}: {picture.width} × {picture.height}, {args.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
