"""Formulas as MathML, which browsers draw by themselves: no script, no fonts to fetch."""

from __future__ import annotations

import re

from latex2mathml.converter import convert

from website.links import outside_code

_BLOCK = re.compile(r"^\$\$\n?(.+?)\n?\$\$$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<![\\$\w`])\$(?=\S)([^$\n`]+?)(?<=\S)\$(?![\w$`])")


def with_formulas(text: str) -> str:
    """Replaces LaTeX between dollar signs in a Markdown text by MathML."""

    def change(part: str) -> str:
        part = _BLOCK.sub(
            lambda m: (
                f'<div class="formula" tabindex="0">{convert(m[1].strip(), display="block")}</div>'
            ),
            part,
        )
        # Within a span: Markdown takes a line that begins with <math> for a paragraph of its own.
        return _INLINE.sub(lambda m: f"<span>{convert(m[1])}</span>", part)

    return outside_code(text, change)
