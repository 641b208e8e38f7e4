"""The demo in a real browser: Debian's Chromium, headless, driven as a person would."""

import base64
import io
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

import ctnet
from ctnet.demo.files import Limits

pytest.importorskip("gradio", reason="needs the extra [demo]")
api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium here: apt-get install chromium", allow_module_level=True)

LIMITS = Limits(file_bytes=2_000_000, pixels=2_000_000)
PATIENCE = 60_000
"""Milliseconds that anything may take: tests share their machine."""


def photograph(size, seed=1):
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    from ctnet.demo.server import serve

    path = tmp_path_factory.mktemp("examples") / "sample.png"
    photograph((320, 256), 2).save(path)
    running = serve("ctn-r1", device="cpu", limits=LIMITS, examples={"sample": path})
    yield running
    running.close()


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Driver:
    """A page of the demo."""

    def __init__(self, browser, url, **options):
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(PATIENCE)
        self.outside, self.failed = [], []
        self.page.on("request", self._on_request)
        self.page.on("requestfailed", self._on_failure)
        self.page.on("response", lambda x: x.status >= 400 and self.failed.append(x.url))
        self.page.on("pageerror", lambda error: self.failed.append(str(error)))
        self.url = url
        self.page.goto(url)
        self.page.wait_for_selector("#painter .drop")

    def _on_request(self, request):
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.outside.append(request.url)

    def _on_failure(self, request):
        # gradio ends its streams of events itself, as a page does that is left.
        if request.failure != "net::ERR_ABORTED":
            self.failed.append(request.url)

    def number(self):
        return int(self.page.locator("#views .pictures").get_attribute("data-number") or 0)

    def after(self, act):
        """Does something, and waits for the answer to it and those on the way."""
        before = self.number()
        act()
        self.page.wait_for_function(
            "before => Number(document.querySelector('#views .pictures').dataset.number) > before",
            arg=before,
        )
        while True:
            seen = self.number()
            self.page.wait_for_timeout(700)
            if self.number() == seen:
                return self.picture()

    def picture(self, index=0):
        source = self.page.locator("#views figure img").nth(index).get_attribute("src")
        data = base64.b64decode(source.split(",")[1])
        return np.array(Image.open(io.BytesIO(data)))

    def send(self, button, path):
        self.page.set_input_files(f"input[type=file]:has(+ {button})", path)

    def drag(self, start, end, size):
        """Drags from one pixel of the working size to another."""
        canvas = self.page.locator("#painter canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        scale = box["width"] / size[0]
        points = [
            (box["x"] + (x + 0.5) * scale, box["y"] + (y + 0.5) * scale) for x, y in (start, end)
        ]
        self.page.mouse.move(*points[0])
        self.page.mouse.down()
        self.page.mouse.move(*points[1], steps=8)
        self.page.mouse.up()

    def download(self, button, folder):
        with self.page.expect_download() as found:
            self.page.click(button)
        path = folder / found.value.suggested_filename
        found.value.save_as(path)
        return path

    def choose(self, dropdown, text):
        self.page.click(f"{dropdown} input")
        self.page.get_by_role("option", name=text, exact=True).click()

    def notice(self):
        notice = self.page.locator(".toast-body").last
        notice.wait_for()
        return notice.inner_text()


@pytest.fixture
def open_page(browser, server):
    """Function (options of a page) -> Driver; what it asks for stays here and does not fail."""
    opened = []

    def open_one(**options):
        opened.append(Driver(browser, server.url, **options))
        return opened[-1]

    yield open_one
    for driver in opened:
        driver.page.close()
        assert driver.outside == []
        assert driver.failed == []


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "my photo.png"
    photograph((640, 512)).save(path)
    return path


SIZE = (320, 256)
"""Width and height at which networks see the photograph."""


def same(one, other):
    """Compares pictures; parts of a composite that are computed anew may be rounded otherwise."""
    np.testing.assert_allclose(one.astype(int), other, atol=1)


def test_upload_propose_paint_and_keep_the_palette(open_page, photo, tmp_path):
    driver = open_page(viewport={"width": 1280, "height": 1000})
    page = driver.page
    driver.after(lambda: driver.send("#photograph", photo))
    driver.choose("#start", "Only semantic edges")
    driver.after(lambda: page.click("#restart"))
    proposed = driver.after(lambda: page.click("#propose"))
    wanted = ctnet.load("palette-r2").predict(photo)
    saved = ctnet.Palette.load(driver.download("#save-palette", tmp_path))
    assert saved.size == (512, 640)
    assert (saved.ids == wanted.ids).mean() > 0.95

    page.click("#painter [data-tool=box]")
    page.click("#painter [data-task='4']")
    painted = driver.after(lambda: driver.drag((8, 10), (55, 49), SIZE))
    changed = (proposed != painted).any(-1)
    assert painted.shape == (256, 320, 3)
    assert changed[14:46, 12:52].mean() > 0.95
    # The network sees 62 pixels beyond the coarse cells, of 32, that the box touches.
    assert not changed[128:].any()
    assert not changed[:, 128:].any()
    near = changed.copy()
    near[8:52, 6:58] = False
    assert near.mean() < 0.05

    kept = driver.download("#save-palette", tmp_path)
    palette = ctnet.Palette.load(kept)
    expected = saved.paint_box((16, 20, 112, 100), "normals")
    assert palette == expected

    same(driver.after(lambda: page.click("[data-act=undo]")), proposed)
    same(driver.after(lambda: page.click("[data-act=redo]")), painted)
    driver.after(lambda: page.click("#restart"))
    same(driver.after(lambda: driver.send("#load-palette", kept)), painted)
    again = ctnet.Palette.load(driver.download("#save-palette", tmp_path))
    assert again == palette

    with zipfile.ZipFile(driver.download("#save-labels", tmp_path)) as file:
        assert "my_photo_normals.npy" in file.namelist()
    with Image.open(driver.download("#save-picture", tmp_path)) as picture:
        assert picture.size == (640, 512)


def test_brush_and_fill(open_page, tmp_path):
    driver = open_page(viewport={"width": 1100, "height": 900})
    page = driver.page
    driver.after(lambda: page.click("#examples button[data-name=sample]"))
    driver.choose("#start", "Only saliency")
    driver.after(lambda: page.click("#restart"))
    page.click("#painter [data-task='1']")
    page.locator("#painter [data-size]").fill("10")
    driver.after(lambda: driver.drag((60, 128), (260, 128), SIZE))
    ids = ctnet.Palette.load(driver.download("#save-palette", tmp_path)).ids
    rows, columns = np.mgrid[:256, :320]
    distance = np.hypot(columns - np.clip(columns, 60, 260), rows - 128)
    assert (ids[distance < 8.5] == 1).all()
    assert (ids[distance > 11.5] == 3).all()
    assert set(np.unique(ids)) == {1, 3}

    page.click("#painter [data-tool=fill]")
    page.click("#painter [data-task='255']")
    driver.after(lambda: driver.drag((150, 128), (150, 128), SIZE))
    filled = ctnet.Palette.load(driver.download("#save-palette", tmp_path)).ids
    np.testing.assert_array_equal(filled, np.where(ids == 1, 255, ids))


def test_with_a_keyboard(open_page, tmp_path):
    driver = open_page(viewport={"width": 1100, "height": 900})
    page = driver.page
    page.locator("#examples button").focus()
    driver.after(lambda: page.keyboard.press("Enter"))
    driver.choose("#start", "Only saliency")
    driver.after(lambda: page.click("#restart"))
    page.locator("#painter canvas").focus()
    for key in ("x", "3", "ArrowLeft", "ArrowUp", "Space", "Shift+ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    painted = driver.after(lambda: page.keyboard.press("Space"))
    ids = ctnet.Palette.load(driver.download("#save-palette", tmp_path)).ids
    wanted = np.full((256, 320), 3)
    wanted[124:129, 156:158] = 2
    np.testing.assert_array_equal(ids, wanted)
    assert "semantic edges" in page.inner_text("#painter .status")
    page.locator("#painter canvas").focus()
    driver.after(lambda: page.keyboard.press("Control+z"))
    same(driver.after(lambda: page.keyboard.press("Control+y")), painted)
    page.keyboard.press("b")
    page.keyboard.press("]")
    assert page.locator("[data-tool=brush]").get_attribute("aria-pressed") == "true"
    assert page.locator("[data-size]").input_value() == "16"


def test_views_and_a_second_model(open_page):
    driver = open_page(viewport={"width": 1280, "height": 900})
    page = driver.page
    driver.after(lambda: page.click("#examples button"))
    driver.choose("#start", "Rule Rrnd: a task drawn for each pixel")
    composite = driver.after(lambda: page.click("#restart"))
    seen = [composite]
    for name in ("Overlay", "semantic segmentation", "surface normals"):
        label = page.locator("#view label", has_text=name)
        seen.append(driver.after(label.click))
        assert not np.array_equal(seen[-1], seen[-2])
    back = driver.after(page.locator("#view label", has_text="Composite").click)
    np.testing.assert_array_equal(back, composite)
    driver.after(lambda: driver.choose("#other", "ctn-r2"))
    api.expect(page.locator("#views figure")).to_have_count(2, timeout=PATIENCE)
    assert page.locator("#views figcaption strong").all_inner_texts() == ["ctn-r1", "ctn-r2"]
    assert not np.array_equal(driver.picture(0), driver.picture(1))
    driver.after(lambda: driver.choose("#other", "none"))
    api.expect(page.locator("#views figure")).to_have_count(1, timeout=PATIENCE)


def test_errors_are_said_in_words(open_page, tmp_path):
    driver = open_page(viewport={"width": 1280, "height": 900})
    page = driver.page
    page.click("#propose")
    assert "choose one first" in driver.notice()
    page.reload()
    page.wait_for_selector("#painter .drop")
    (tmp_path / "notes<i>.txt").write_text("no image")
    driver.send("#photograph", tmp_path / "notes<i>.txt")
    assert "is no image that can be read" in driver.notice()
    page.reload()
    before = driver.after(lambda: page.click("#examples button"))
    Image.new("L", (33, 22)).save(tmp_path / "small.png")
    driver.send("#load-palette", tmp_path / "small.png")
    assert "33 × 22 pixels, the photograph 320 × 256" in driver.notice()
    np.testing.assert_array_equal(driver.picture(), before)
    page.reload()
    page.wait_for_selector("#painter .drop")
    (tmp_path / "huge.png").write_bytes(b"\x89PNG" + b"x" * 2_100_000)
    driver.send("#photograph", tmp_path / "huge.png")
    assert "size" in driver.notice()


def test_dropped_files(open_page, photo):
    driver = open_page(viewport={"width": 1280, "height": 900})
    data = base64.b64encode(photo.read_bytes()).decode()
    drop = """data => {
      const bytes = Uint8Array.from(atob(data), (x) => x.charCodeAt(0));
      const files = new DataTransfer();
      for (let i = 0; i < 20; i++) files.items.add(new File([bytes], `photo${i}.png`));
      const event = new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true });
      document.querySelector("#painter .stage").dispatchEvent(event);
    }"""
    driver.after(lambda: driver.page.evaluate(drop, data))
    assert "photo0: 640 × 512" in driver.page.inner_text("#painter .status")


def test_on_a_phone(open_page, photo):
    driver = open_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = driver.page
    driver.after(lambda: driver.send("#photograph", photo))
    driver.choose("#start", "Only saliency")
    before = driver.after(lambda: page.click("#restart"))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    canvas, picture = (page.locator(x).bounding_box() for x in ("#painter canvas", "#views img"))
    assert min(canvas["width"], picture["width"]) > 300
    assert picture["y"] + picture["height"] - canvas["y"] < 844
    page.tap("#painter [data-task='2']")
    page.locator("#painter canvas").scroll_into_view_if_needed()
    box = page.locator("#painter canvas").bounding_box()
    after = driver.after(
        lambda: page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    )
    assert (before != after).any()
