"""Links of Markdown files, from where they are in the repository to where they are on the site."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "docs/tables.md": "method.md",
}
"""Pages of the site that show files which are none of its pages themselves."""

FILES = "files"
"""Folder of the site with files of the repository that pages link to."""

_FENCE = re.compile(r"^(```|~~~)", re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()(?P<path>[^)\s#]*)(?P<anchor>#[^)\s]*)?(?=\))")


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Changes the lines of a Markdown text that are in no fenced block of code."""
    parts: list[str] = []
    kept: list[str] = []
    fenced = False
    for line in text.splitlines(keepends=True):
        fence = bool(_FENCE.match(line.lstrip()))
        if fence or fenced:
            if not fenced:
                parts.append(change("".join(kept)))
                kept = []
            parts.append(line)
            fenced = fenced != fence
        else:
            kept.append(line)
    return "".join([*parts, change("".join(kept))])


def links_of(text: str) -> list[str]:
    """Lists the paths, without anchors, that a Markdown text links to outside of code."""
    found: list[str] = []

    def noted(part: str) -> str:
        found.extend(m["path"] for m in _LINK.finditer(part) if m["path"] and ":" not in m["path"])
        return part

    outside_code(text, noted)
    return found


class Links:
    """Rewrites links between files of the repository, and notes which files the site needs.

    Args:
        root: The repository.
        pages: Pages of the site by the path of their source in the repository.
        sections: Pages that show a section of another file, by ``FILE#ANCHOR``.

    Attributes:
        needed: Files to copy to the site, from path in the repository to path on the site.
    """

    def __init__(self, root: Path, pages: dict[str, str], sections: dict[str, str]) -> None:
        self.needed: dict[str, str] = {}
        self._root = root
        self._pages = pages | PAGES
        self._sections = sections

    def rewrite(self, text: str, source: str, page: str) -> str:
        """Rewrites the links of a text.

        Args:
            text: Markdown.
            source: File of the repository that the text is from.
            page: Page of the site that it goes to.

        Raises:
            ValueError: If a link leads to no file.
        """

        def moved(match: re.Match[str]) -> str:
            path, anchor = match["path"], match["anchor"] or ""
            if ":" in path:
                return match[0]
            target = os.path.normpath(PurePosixPath(source).parent / path) if path else source
            place = self._sections.get(target + anchor)
            if place is not None:
                anchor = ""
            elif path or self._pages.get(source) != page:
                place = self._place(target, source)
            else:
                return match[0]
            return os.path.relpath(place, PurePosixPath(page).parent) + anchor

        return outside_code(text, lambda part: _LINK.sub(moved, part))

    def _place(self, target: str, source: str) -> str:
        """Finds where a file of the repository is on the site."""
        if target in self._pages:
            return self._pages[target]
        if not (self._root / target).is_file():
            raise ValueError(f"{source} links to {target}, which is no file of the repository.")
        place = target.removeprefix("docs/") if target.startswith("docs/") else f"{FILES}/{target}"
        self.needed[target] = place
        return place
