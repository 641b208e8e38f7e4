"""The files of a checkpoint: names, sizes, digests and limits. Imports no torch."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"

MAX_BYTES = {CONFIG_FILE: 1 << 20, WEIGHTS_FILE: 4 << 30}
"""Largest file of a checkpoint in bytes; larger ones are neither downloaded nor read."""


@dataclass(frozen=True)
class FileInfo:
    """A file of a checkpoint.

    Attributes:
        sha256: Hexadecimal digest of its bytes.
        size: Number of bytes.

    Raises:
        ValueError: If one of them is none.
    """

    sha256: str
    size: int

    def __post_init__(self) -> None:
        if not isinstance(self.sha256, str) or not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"a sha256 is 64 hexadecimal digits; got {self.sha256!r}.")
        whole = isinstance(self.size, int) and not isinstance(self.size, bool)
        if not whole or not 0 <= self.size <= max(MAX_BYTES.values()):
            raise ValueError(
                f"a file's size is 0 to {max(MAX_BYTES.values())} bytes; got {self.size!r}."
            )


def file_info(path: Path) -> FileInfo:
    """Computes digest and size of a file, reading it in pieces."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return FileInfo(digest.hexdigest(), path.stat().st_size)


@contextmanager
def replacing(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Writes several files, which replace older ones together once all are written.

    If writing fails or is interrupted, the old files stay as they were. The new ones have the
    permissions of any file that the user makes, whatever wrote them.

    Args:
        paths: Files of one folder, which is made if missing.
    """
    parent = paths[0].parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=parent) as folder:
        files = tuple(Path(folder) / path.name for path in paths)
        plain = Path(folder) / ".mode"
        plain.touch()
        mode = plain.stat().st_mode
        yield files
        for file in files:
            file.chmod(mode)
        for file, path in zip(files, paths, strict=True):
            os.replace(file, path)


def check_size(path: Path) -> None:
    """Checks that a file is no larger than one of its name may be.

    Raises:
        ValueError: If it is.
    """
    most, size = MAX_BYTES[path.name], path.stat().st_size
    if size > most:
        raise ValueError(f"{path} has {size} bytes, at most {most} are allowed.")


def verify(folder: Path, files: Mapping[str, FileInfo]) -> None:
    """Compares files with what a manifest says of them.

    Raises:
        FileNotFoundError: If one is missing.
        ValueError: If one has other bytes.
    """
    for name, expected in files.items():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{name} is missing in {folder}; install or download it again.")
        found = file_info(folder / name)
        if found != expected:
            raise ValueError(
                f"{folder / name} is damaged or not what the manifest names: {found.size} bytes, "
                f"sha256 {found.sha256[:12]}..., expected {expected.size} bytes, "
                f"{expected.sha256[:12]}...; delete it and install or download it again."
            )
