"""The built site in a real browser, opened as files: search, contrast, links, nothing fetched."""

import re
import shutil

import pytest

from website.building import build

pytest.importorskip("zensical", reason="needs the extra [docs]")
api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
Axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium here: apt-get install chromium", allow_module_level=True)

PAGES = (
    "index.html", "method.html", "models.html", "commands.html", "api/models.html",
    "notebooks/quickstart.html", "speed.html",
)  # fmt: skip
RULES = ("color-contrast", "link-in-text-block", "image-alt", "link-name", "html-has-lang")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "site"
    assert build(out) == 0
    return out


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(60_000)
    failed = []
    page.on("request", lambda x: x.url.startswith(("file:", "data:")) or failed.append(x.url))
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    yield page
    page.close()
    assert failed == []


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("label table", "Label tables"),
        ("surface normals", "normals"),
        ("fine-tune", "fine-tune"),
    ],
)
def test_search_works_without_a_server(site, page, words, found):
    page.goto((site / "index.html").as_uri())
    page.click(".md-search__button")
    page.keyboard.type(words, delay=30)
    results = page.get_by_text(re.compile(r"^\d+ results$"))
    results.wait_for()
    assert int(results.inner_text().split()[0]) > 3
    entries = page.locator("ol, ul").get_by_text(found).locator("visible=true")
    api.expect(entries.first).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_can_be_read_by_all(site, page, scheme):
    page.emulate_media(color_scheme=scheme)
    for name in PAGES:
        page.goto((site / name).as_uri())
        page.wait_for_timeout(300)
        options = {"runOnly": {"type": "rule", "values": list(RULES)}}
        violations = Axe().run(page, options=options).response["violations"]
        seen = [(x["id"], [node["html"][:150] for node in x["nodes"][:3]]) for x in violations]
        assert seen == [], name
