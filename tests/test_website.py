"""Pages of the site: includes, links, formulas, cards and docstrings."""

import pytest

import ctnet
from website import building
from website.building import ROOT, stage
from website.checking import broken_links
from website.commands import commands
from website.docstrings import markdown
from website.gallery import PICTURES, gallery
from website.links import Links, links_of
from website.math import with_formulas
from website.pictures import LIMIT

griffe = pytest.importorskip("griffe")


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    stage(folder)
    return folder


def test_every_source_becomes_a_page(staged):
    pages = {path.relative_to(staged).as_posix() for path in staged.rglob("*.md")}
    assert {"index.md", "method.md", "models.md", "notebooks/quickstart.md"} <= pages
    # The page for contributors shows what the marks look like.
    shown = [path for path in staged.rglob("*.md") if path.name != "contributing.md"]
    text = "".join(path.read_text() for path in shown)
    assert "<!-- include" not in text and "<!-- generate" not in text


def test_links_lead_somewhere(staged):
    for path in staged.rglob("*.md"):
        for target in links_of(path.read_text()):
            assert (path.parent / target).exists(), f"{path}: {target}"


def test_tables_of_the_readme_are_shown_as_they_are(staged):
    row = next(x for x in (ROOT / "docs/tables.md").read_text().splitlines() if "R1 CTN" in x)
    assert row in (staged / "method.md").read_text()


def test_a_missing_file_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(building, "ROOT", tmp_path)
    page = tmp_path / "docs/index.md"
    page.write_text("# A\n\n<!-- include: gone.md -->\n")
    with pytest.raises(ValueError, match=r"index.md includes gone.md"):
        stage(tmp_path / "out")
    page.write_text("# A\n\n<!-- include: docs/index.md#B -->\n")
    with pytest.raises(ValueError, match="no heading 'B'"):
        stage(tmp_path / "out")
    page.write_text("# A\n\n<!-- generate: wishes -->\n")
    with pytest.raises(ValueError, match="'wishes'"):
        stage(tmp_path / "out")


def test_links_move_with_their_text(tmp_path):
    for name in ("README.md", "docs/a.md", "docs/b.png", "examples/c.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    links = Links(tmp_path, {"docs/a.md": "a.md"}, {"README.md#here": "how/to.md"})
    text = "[a](docs/a.md#x) ![b](docs/b.png) [c](examples/c.py) [d](https://e.f) [g](#here)\n"
    assert links.rewrite(text, "README.md", "how/other.md") == (
        "[a](../a.md#x) ![b](../b.png) [c](../files/examples/c.py) [d](https://e.f) [g](to.md)\n"
    )
    assert links.needed == {"docs/b.png": "b.png", "examples/c.py": "files/examples/c.py"}
    fenced = "```\n[a](nowhere.md)\n```\n"
    assert links.rewrite(fenced, "README.md", "a.md") == fenced
    with pytest.raises(ValueError, match=r"README.md links to nowhere.md"):
        links.rewrite("[a](nowhere.md)", "README.md", "a.md")


def test_broken_links_of_a_site_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><a href="b.html#x">1</a><a href="b.html#y">2</a><img src="c.png">'
        '<a href="#top">3</a><a href="#bottom">4</a><a href="https://e.f/#g">5</a>'
    )
    (tmp_path / "b.html").write_text('<p id="x">B</p>')
    assert broken_links(tmp_path) == ["a.html: #bottom", "a.html: b.html#y", "a.html: c.png"]


def test_formulas_become_mathml():
    text = with_formulas("so $a_i$ is\n\n$$\nb = c\n$$\n\n```\n$x$ and $y$\n```\n")
    assert text.count("<math") == 2 and '<div class="formula" tabindex="0">' in text
    assert "$x$ and $y$" in text


def test_each_model_has_a_card_with_its_figures():
    text = gallery(ROOT / "results")
    for name in ctnet.list_models():
        assert f"## {name}\n" in text
        assert 0 < (ROOT / PICTURES / f"{name}.jpg").stat().st_size <= LIMIT
    readme = (ROOT / "README.md").read_text()
    rows = [line for line in readme.splitlines() if line.startswith("| `ctn-r1` | R2")]
    assert rows and all(row in text for row in rows)


def test_each_command_has_its_help():
    text = commands()
    for name in ("predict", "palette make", "export", "finetune"):
        assert f"## ctnet {name}\n" in text
    row = "| `--long-side LONG_SIDE` | working size in pixels | 320 |"
    assert row in text
    assert "| `--config CONFIG`, `--recipe` |" in text and "| required |" in text
    assert "default:" not in text


def test_docstrings_become_markdown():
    code = '"""Module."""\ndef load():\n    """Loads."""\n'
    with griffe.temporary_visited_module(code, module_name="ctnet") as module:
        text = markdown("See :func:`load`.\n\nExample::\n\n    load()\n\nEnd.", module)
    assert '<autoref identifier="ctnet.load" optional><code>load</code></autoref>' in text
    assert "Example:\n\n```python\nload()\n```" in text and text.endswith("End.")
