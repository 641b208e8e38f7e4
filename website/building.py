"""Gathers the pages of the site in a folder and has Zensical build it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from website.checking import broken_links
from website.commands import commands
from website.facts import losses, rules
from website.gallery import gallery
from website.links import FILES, PAGES, Links, outside_code
from website.math import with_formulas
from website.notebooks import FOLDER, to_page

ROOT = Path(__file__).parent.parent
CONFIG = Path(__file__).with_name("zensical.toml")
ASSETS = tuple(map(Path(__file__).with_name, ("site.css", "iframe-worker.js")))
GENERATORS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "losses": losses,
    "models": lambda: gallery(ROOT / "results"),
    "rules": rules,
}
"""What pages can have generated, by name."""

DOWNLOAD = "\n---\n\n[Download this notebook](../files/{})\n"

_INCLUDE = re.compile(
    r"^<!-- include: (?P<path>[^#\n]+?)(?:#(?P<section>[^\n]+?))?(?P<head> \(head\))? -->$", re.M
)
_GENERATE = re.compile(r"^<!-- generate: (?P<name>\w+) -->$", re.M)
_MARK = re.compile(r"^<!-- .+? -->\n", re.M)
_HEADING = re.compile(r"^(#+) (.+)$")


def build(out: Path) -> int:
    """Builds the site; every warning is an error.

    Args:
        out: Folder of the site. What is there is replaced.

    Returns:
        The exit status of the builder.

    Raises:
        ValueError: If a page includes or links to something that does not exist.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        stage(place / "docs")
        shutil.copy(CONFIG, place)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        words = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
        status = subprocess.run(words, cwd=place, env=environment, check=False).returncode
        if not status:
            broken = broken_links(place / "site")
            if broken:
                raise ValueError("links that lead nowhere:\n  " + "\n  ".join(broken))
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(place / "site", out)
    return status


def stage(docs: Path) -> None:
    """Writes all pages, pictures and files of the site to a folder.

    Raises:
        ValueError: If a page includes or links to something that does not exist.
    """
    pages = {
        path.relative_to(ROOT).as_posix(): path.relative_to(ROOT / "docs").as_posix()
        for path in (ROOT / "docs").rglob("*.md")
    }
    notebooks = {
        f"{FOLDER.as_posix()}/{path.name}": f"notebooks/{path.stem}.md"
        for path in sorted((ROOT / FOLDER).glob("*.ipynb"))
    }
    links = Links(ROOT, pages | notebooks, _included_sections(pages))
    for source, page in pages.items():
        if source not in PAGES:
            _write(docs / page, _assembled(source, page, links))
    for source, page in notebooks.items():
        shown = to_page(ROOT / source, partial(links.rewrite, source=source, page=page))
        _write(docs / page, shown.text + DOWNLOAD.format(source))
        for name, content in shown.pictures.items():
            (docs / page).with_name(name).write_bytes(content)
        links.needed[source] = f"{FILES}/{source}"
    for source, place in links.needed.items():
        (docs / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source, docs / place)
    for asset in ASSETS:
        shutil.copy(asset, docs)


def _included_sections(pages: dict[str, str]) -> dict[str, str]:
    """Finds where the sections of other files are shown: the page by ``FILE#ANCHOR``."""
    found = {}
    for source, page in pages.items():
        for match in _INCLUDE.finditer((ROOT / source).read_text("utf-8")):
            if match["section"]:
                anchor = re.sub(r"[^\w\- ]", "", match["section"].lower()).replace(" ", "-")
                found[f"{match['path']}#{anchor}"] = page
    return found


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def _assembled(source: str, page: str, links: Links) -> str:
    """Reads a page with all that it includes and has generated."""

    def included(match: re.Match[str]) -> str:
        path = match["path"]
        if not (ROOT / path).is_file():
            raise ValueError(f"{source} includes {path}, which is no file of the repository.")
        text = _section((ROOT / path).read_text("utf-8"), match["section"], path)
        if match["head"]:
            text = text.partition("\n#")[0]
        return links.rewrite(text, path, page)

    def generated(match: re.Match[str]) -> str:
        if match["name"] not in GENERATORS:
            raise ValueError(f"{source} wants {match['name']!r} generated; known: {[*GENERATORS]}.")
        return links.rewrite(GENERATORS[match["name"]](), source, page)

    text = links.rewrite((ROOT / source).read_text("utf-8"), source, page)
    text = outside_code(text, lambda part: _INCLUDE.sub(included, _GENERATE.sub(generated, part)))
    return with_formulas(outside_code(text, lambda part: _MARK.sub("", part)))


def _section(text: str, title: str | None, path: str) -> str:
    """Takes what stands below a heading, or below the first one where no title is given.

    Raises:
        ValueError: If there is no such heading.
    """
    level, kept = 0, []
    fenced = False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        heading = None if fenced else _HEADING.match(line)
        if level and heading and len(heading[1]) <= level:
            break
        if level:
            kept.append(line)
        elif heading and title in (None, heading[2]):
            level = len(heading[1])
    if not level:
        raise ValueError(f"{path} has no heading {title!r}.")
    return "\n".join(kept).strip()
