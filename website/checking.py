"""Checks the links of a built site: every page, file and anchor that one leads to must be there."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

NO_PAGE = "404.html"
"""The page for addresses that do not exist; its links begin at the root of a server."""


@dataclass
class _Found(HTMLParser):
    """What a page links to, and what can be linked to in it."""

    links: set[str] = field(default_factory=set)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes the links and anchors of an element."""
        for name, value in attrs:
            if value and name in ("id", "name"):
                self.anchors.add(value)
            elif value and name in ("href", "src"):
                self.links.add(value)


def broken_links(site: Path) -> list[str]:
    """Lists the links within a site that lead nowhere, as ``PAGE: LINK``."""
    pages = {}
    for path in sorted(site.rglob("*.html")):
        if path.name != NO_PAGE:
            pages[path.resolve()] = found = _Found()
            found.feed(path.read_text("utf-8"))
    broken = []
    for path, found in pages.items():
        for link in sorted(found.links):
            address = urlsplit(link)
            if address.scheme or address.netloc:
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(address.fragment)
            missing = anchor and target in pages and anchor not in pages[target].anchors
            if not target.is_file() or missing:
                broken.append(f"{path.relative_to(site.resolve())}: {link}")
    return broken
