"""Writes files that are marked as ours, and never overwrites files that are not."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from pathlib import Path

from PIL.PngImagePlugin import PngInfo

MARK = "made by ctnet"
"""Metadata of pictures and videos."""

_MARKS = (MARK.encode(), b"ctnet.format", b"ctnet.json", b'"scores":', b'"system":')
"""What is found in a picture or video, an exported network, a result, and a configuration."""

_PNG_HEAD = 8192
"""Bytes of a PNG in which its text and color table are, before the pixels."""

_ARRAY, _SIBLING = ".npy", "palette.png"
"""Arrays carry no mark of who wrote them; the palette that is saved beside them does."""


def png_mark() -> PngInfo:
    """Returns the text that marks a PNG as made by ctnet, for ``Image.save(pnginfo=...)``."""
    info = PngInfo()
    info.add_text("Software", MARK)
    return info


def made_by_ctnet(path: str | Path) -> bool:
    """Whether a file was written by ctnet, by what it says of itself."""
    path = Path(path)
    if path.suffix == _ARRAY and path.is_file():
        path = path.with_name(f"{path.stem.rpartition('_')[0]}_{_SIBLING}")
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as found:
            end = _PNG_HEAD if path.suffix.lower() == ".png" else len(found)
            return any(found.find(mark, 0, end) >= 0 for mark in _MARKS)
    except (OSError, ValueError):  # Empty files cannot be mapped.
        return False


def check_outputs(
    paths: Iterable[str | Path], inputs: Iterable[str | Path] = (), overwrite: bool = False
) -> None:
    """Checks that writing files destroys nothing.

    Args:
        paths: Files to write.
        inputs: Files that the same run reads, which it never replaces.
        overwrite: Allow files to be replaced that ctnet did not make.

    Raises:
        ValueError: If a file is an input, or exists and was not made by ctnet.
    """
    read = {_identity(path) for path in inputs}
    for path in map(Path, paths):
        if not os.path.lexists(path) or path.is_dir():
            continue
        if _identity(path) in read:
            raise ValueError(f"{path} is an input of this run; choose another --out.")
        if not overwrite and not made_by_ctnet(path):
            raise ValueError(
                f"{path} exists and was not made by ctnet; choose another --out, or --overwrite."
            )


def _identity(path: str | Path) -> object:
    """Returns what is equal for two names of one file."""
    try:
        found = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return found.st_dev, found.st_ino
