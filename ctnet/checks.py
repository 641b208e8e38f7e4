"""Checks of what files and callers give, with messages that say what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Ends an error message on an unknown name: the nearest match and all that is allowed."""
    choices = list(allowed)
    close = difflib.get_close_matches(name, choices, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} Allowed: {', '.join(choices)}." if hint else f"; allowed: {', '.join(choices)}."


def check_keys(values: Any, cls: type, name: str) -> None:
    """Checks that a table of a file names fields of a dataclass, and all that have no default.

    Args:
        values: What stands there.
        cls: The dataclass.
        name: What messages call the table.

    Raises:
        ValueError: If it is no table, or a key is unknown or missing.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{name} is a table; got {values!r:.200}.")
    known = {
        field.name: field.default is MISSING and field.default_factory is MISSING
        for field in fields(cls)
    }
    for key in values:
        if key not in known:
            raise ValueError(f"unknown key {key!r} in {name}{did_you_mean(str(key), known)}")
    for key, required in known.items():
        if required and key not in values:
            raise ValueError(f"{name} lacks the key {key!r}.")
