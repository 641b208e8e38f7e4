"""Writes plain types as TOML; the standard library only reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(values: Mapping[str, Any]) -> str:
    """Writes a table as TOML.

    Args:
        values: Text, numbers, truth values, lists and tables by name. What is None is left out, as
            TOML has nothing for it.

    Returns:
        The text, which ``tomllib`` reads as the same table: plain values first, then tables, then
        lists of tables.
    """
    return "\n".join(_lines(values, ())) + "\n"


def _lines(values: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    known = {key: value for key, value in values.items() if value is not None}
    tables = {key: value for key, value in known.items() if isinstance(value, Mapping)}
    lists = {key: value for key, value in known.items() if _is_tables(value)}
    lines = [
        f"{_key(key)} = {_value(value)}"
        for key, value in known.items()
        if key not in tables and key not in lists
    ]
    for key, table in tables.items():
        lines += ["", f"[{_dotted(*path, key)}]", *_lines(table, (*path, key))]
    for key, entries in lists.items():
        for entry in entries:
            lines += ["", f"[[{_dotted(*path, key)}]]", *_lines(entry, (*path, key))]
    return lines


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(x, Mapping) for x in value)


def _dotted(*path: str) -> str:
    return ".".join(_key(part) for part in path)


def _key(key: str) -> str:
    return key if BARE_KEY.fullmatch(key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(entry) for entry in value)}]"
    if isinstance(value, str):
        # JSON escapes what TOML does, but for this one.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, float):
        # repr also has TOML's words for what is not finite.
        return repr(value)
    if isinstance(value, bool | int):
        return json.dumps(value)
    raise ValueError(f"TOML has no type for {value!r:.200}.")
