"""The command line's own help as a page."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from unittest.mock import patch

from ctnet.cli.main import build_parser

COLUMNS = "88"
"""Width at which the help is laid out."""


def commands() -> str:
    """Writes a section for each command, with what ``--help`` says of it."""
    with patch.dict(os.environ, {"COLUMNS": COLUMNS}):
        return "\n".join(
            f"## {parser.prog}\n\n```text\n{parser.format_help().rstrip()}\n```\n"
            for parser in _leaves(build_parser())
        )


def _leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Finds the parsers that have no commands below them."""
    groups = [
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    ]
    if not groups:
        yield parser
    for group in groups:
        for child in group.choices.values():
            yield from _leaves(child)
