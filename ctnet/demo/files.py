"""Uploads: photographs and palettes, checked before they are decoded."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ctnet.images import RGB, load_image
from ctnet.palette import Palette, Size
from ctnet.prediction.resampling import working_palette


@dataclass(frozen=True)
class Limits:
    """What the demo takes and keeps at most.

    Attributes:
        file_bytes: Size of a file that is sent.
        pixels: Pixels of a photograph or palette, read from its header before it is decoded.
        kept_side: Longest side at which a photograph is kept; larger ones are scaled down.
        pages: Browser pages whose photographs are in memory; the one longest unused gives way.
        waiting: Requests in the queue; what comes on top of them is refused in words.
    """

    file_bytes: int = 20 * 2**20
    pixels: int = 40_000_000
    kept_side: int = 1600
    pages: int = 16
    waiting: int = 16


@dataclass(frozen=True, eq=False)
class Photo:
    """A photograph of the demo.

    Attributes:
        name: Stem of its file.
        size: Its own height and width.
        pixels: RGB (H,W,3) uint8, scaled down where it was larger than the demo keeps.
        working: RGB (h,w,3) uint8 at the size at which networks see it.
    """

    name: str
    size: Size
    pixels: RGB
    working: RGB

    @property
    def kept_size(self) -> Size:
        """Height and width of :attr:`pixels`."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def working_size(self) -> Size:
        """Height and width of :attr:`working`, and of palettes that are painted."""
        return self.working.shape[0], self.working.shape[1]


def read_photo(path: str | Path, long_side: int, limits: Limits, name: str | None = None) -> Photo:
    """Reads a photograph that a browser sent.

    Args:
        path: The file.
        long_side: Longest side at which networks see it.
        limits: What is taken at most.
        name: Name of the file for people, in messages and downloads; the path's own where None.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is too large, or no image that can be read.
    """
    path = Path(path)
    name = path.name if name is None else name
    _check(path, name, limits)
    with _named(path, name):
        pixels = load_image(path)
    size = pixels.shape[0], pixels.shape[1]
    kept = _scaled(pixels, limits.kept_side)
    return Photo(_stem(name), size, kept, _scaled(kept, long_side))


def read_palette(
    path: str | Path, photo: Photo, tasks: Sequence[str], limits: Limits, name: str | None = None
) -> Palette:
    """Reads a palette PNG that a browser sent, for a photograph.

    Args:
        path: The file.
        photo: The photograph; the palette has its size, or that at which the demo keeps or paints
            it.
        tasks: Names by id.
        limits: What is taken at most.
        name: Name of the file for people; the path's own where None.

    Returns:
        The palette at the photograph's working size.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is too large, no image of ids, of another size, or asks for unknown tasks.
    """
    path = Path(path)
    name = path.name if name is None else name
    size = _check(path, name, limits)
    if size not in (photo.size, photo.kept_size, photo.working_size):
        raise ValueError(
            f"{name} is {in_words(size)} pixels, the photograph {in_words(photo.size)}; a palette "
            "has its photograph's size."
        )
    with _named(path, name):
        palette = Palette.load(path, tasks)
    return working_palette(palette, photo.working_size)


def _stem(name: str) -> str:
    """Returns a safe file stem for downloads from a name that a browser sent."""
    return re.sub(r"[^\w-]+", "_", Path(name).stem)[:60].strip("_") or "photograph"


def _check(path: Path, name: str, limits: Limits) -> Size:
    """Checks bytes and pixels of an image without decoding it; returns height and width."""
    if not path.is_file():
        raise FileNotFoundError(f"{name} has not arrived; send it again.")
    count = path.stat().st_size
    if count > limits.file_bytes:
        raise ValueError(
            f"{name} has {count / 2**20:.1f} MB; the demo takes files of at most "
            f"{limits.file_bytes / 2**20:g} MB: save it smaller."
        )
    if count == 0:
        raise ValueError(f"{name} is an empty file; send the image itself.")
    try:
        with warnings.catch_warnings():
            # Pillow warns of what is refused below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        raise ValueError(_too_many(name, "far more", limits)) from None
    except Exception as error:  # On damaged files Pillow's readers raise nearly anything.
        raise ValueError(
            f"{name} is no image that can be read; send a JPEG or PNG file."
        ) from error
    if width * height > limits.pixels:
        raise ValueError(_too_many(name, f"{width * height / 1e6:.0f} million", limits))
    return height, width


def _too_many(name: str, pixels: str, limits: Limits) -> str:
    return (
        f"{name} has {pixels} pixels; the demo takes images of at most {limits.pixels / 1e6:g} "
        "million: scale it down."
    )


@contextmanager
def _named(path: Path, name: str) -> Iterator[None]:
    """Puts a file's own name instead of where the server keeps it in messages."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), name)) from error


def _scaled(pixels: RGB, long_side: int) -> RGB:
    height, width = pixels.shape[:2]
    scale = long_side / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.array(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def in_words(size: Size) -> str:
    """Writes a size as people do: width × height."""
    return f"{size[1]} × {size[0]}"
