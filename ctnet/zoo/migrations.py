"""Versions of the layout of checkpoints: an older one is migrated, a newer one refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ctnet.version import __version__

FORMAT = 2
"""Version of the manifest's and the checkpoints' layout that this code reads and writes."""

NEEDS = "0.1.0"
"""First version of ctnet that reads this format; ``config.json`` names it for older versions."""

Migration = Callable[[dict[str, Any]], dict[str, Any]]

MIGRATIONS: dict[int, Migration] = {
    # Format 2 brought label tables; a network of format 1 has none and reads by eq. 5.
    1: lambda content: content,
}
"""By format: what makes the next format of a ``config.json``. Format 1 is the first released.

Whoever raises :data:`FORMAT` sets :data:`NEEDS`, enters the step from the format before, and keeps
all earlier steps.
"""


def read_format(content: Mapping[str, Any], path: Path) -> int:
    """Returns the format of a manifest or a configuration.

    Raises:
        ValueError: If it is none, or newer than this ctnet; the message says which ctnet is needed.
    """
    found = content.get("format")
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise ValueError(f"{path} has no format: a whole number from 0 on; got {found!r}.")
    if found > FORMAT:
        needs = content.get("needs")
        known = isinstance(needs, str) and re.fullmatch(r"\d{1,4}(\.\d{1,4}){0,3}", needs)
        raise ValueError(
            f"{path} has format {found}, ctnet {__version__} reads up to {FORMAT}: it needs "
            f"{f'ctnet >= {needs}' if known else 'a newer ctnet'}; install that."
        )
    return found


def migrate(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Brings what ``config.json`` holds to the present format, step by step.

    Args:
        content: What the file holds; it is left as it is.
        path: The file, for messages.

    Raises:
        ValueError: If the format is none, newer than this ctnet, or older than any it knows.
    """
    for version in range(read_format(content, path), FORMAT):
        if version not in MIGRATIONS:
            raise ValueError(
                f"{path} has format {version}, which no released ctnet wrote; save it again by the "
                "code that wrote it, in format 1 or newer."
            )
        content = {**MIGRATIONS[version](dict(content)), "format": version + 1}
    return content
