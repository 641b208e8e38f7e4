"""Makes the docstrings' reStructuredText roles and literal blocks Markdown (a Griffe extension).

The docstrings refer to code as Sphinx does, which editors and ``help()`` know; mkdocstrings reads
Markdown. A role becomes a link where the site documents its target, and plain code elsewhere.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|meth|class|mod|attr|data|exc):`(?P<short>~?)(?P<target>[\w.]+)`")
_LITERAL = re.compile(r"::\n\n(?P<block>(?:(?: {4}.*)?\n)*(?: {4}.*)(?=\n|\Z))")


class MarkdownDocstrings(griffe.Extension):
    """Rewrites docstrings before they are parsed."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Rewrites the docstrings of a package, once all its names are known."""
        self._rewrite(pkg)

    def _rewrite(self, found: griffe.Object) -> None:
        if found.docstring is not None:
            found.docstring.value = markdown(found.docstring.value, found)
        for member in found.members.values():
            if not member.is_alias:
                self._rewrite(member)  # type: ignore[arg-type]


def markdown(text: str, scope: griffe.Object) -> str:
    """Rewrites a docstring that stands in a scope."""
    text = _LITERAL.sub(lambda m: f":\n\n```python\n{_dedented(m['block'])}\n```", text)
    return _ROLE.sub(lambda m: _reference(m["target"], bool(m["short"]), scope), text)


def _dedented(block: str) -> str:
    return "\n".join(line[4:] for line in block.rstrip().splitlines())


def _reference(target: str, short: bool, scope: griffe.Object) -> str:
    shown = target.lstrip(".").rsplit(".", 1)[-1] if short else target
    place = _resolve(target.lstrip("."), scope)
    return f'<autoref identifier="{place}" optional><code>{shown}</code></autoref>'


def _resolve(target: str, scope: griffe.Object) -> str:
    """Finds the full path of a name: a member of the scope or of what it is in, or a full path."""
    if target.startswith("ctnet."):
        return target
    place: griffe.Object | None = scope
    while place is not None:
        try:
            found = place[target]
            return found.target_path if isinstance(found, griffe.Alias) else found.path
        except (KeyError, griffe.AliasResolutionError):
            place = place.parent
    return target
