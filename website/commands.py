"""The command line's own help as a page: a section a command, its options as a table."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from unittest.mock import patch

from ctnet.cli.main import build_parser

COLUMNS = "88"
"""Width at which usage is laid out."""

DEFAULT = re.compile(r" \(default: (?P<value>[^()]*)\)$")
"""What the end of a help text says of the default."""

SECTION = """## {name}

{summary}

```text
{usage}
```

{options}

{epilog}
"""


def commands() -> str:
    """Writes a section for each command: what it does, its usage, arguments and options."""
    with patch.dict(os.environ, {"COLUMNS": COLUMNS}):
        return "\n".join(_section(parser) for parser in _leaves(build_parser()))


def _section(parser: argparse.ArgumentParser) -> str:
    summary = (parser.description or "").strip()
    lead, _, example = (parser.epilog or "").partition("\n")
    return SECTION.format(
        name=parser.prog,
        summary=summary[:1].upper() + summary[1:].rstrip(".") + ".",
        usage=_dedented(parser.format_usage().removeprefix("usage: "), "       "),
        options=_table(parser),
        epilog=f"{lead.capitalize()}\n\n```bash\n{_dedented(example, '  ')}\n```"
        if example
        else lead,
    )


def _table(parser: argparse.ArgumentParser) -> str:
    formatter = parser._get_formatter()
    lines = ["| Argument | Meaning | Default |", "|---|---|---|"]
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
            continue
        value = formatter._format_args(action, _metavar(action)) if action.nargs != 0 else ""
        names = [f"{name} {value}".strip() for name in action.option_strings[:1]] or [value]
        shown = ", ".join(f"`{name}`" for name in [*names, *action.option_strings[1:]])
        text = formatter._expand_help(action) if action.help else ""
        found = DEFAULT.search(text)
        default = found["value"] if found else "required" if _required(action) else ""
        cells = [shown, DEFAULT.sub("", text), default]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def _metavar(action: argparse.Action) -> str:
    return action.dest.upper() if action.option_strings else action.dest


def _required(action: argparse.Action) -> bool:
    return bool(action.option_strings) and action.required


def _dedented(text: str, indent: str) -> str:
    return "\n".join(line.removeprefix(indent) for line in text.rstrip().splitlines())


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
