"""Any image in, 8-bit RGB out: files, PIL images, arrays and tensors."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

RGB = npt.NDArray[np.uint8]
ImageLike = str | Path | Image.Image | npt.NDArray[Any] | Tensor

SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm",
    ".tif", ".tiff", ".webp",
)  # fmt: skip
"""File extensions that :func:`find_images` takes for images."""

_NUMBER = re.compile(r"(\d+)")
_WILDCARD = re.compile(r"[*?[]")

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_NOTES = (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"tIME", b"pHYs")
"""Chunks of a PNG that do not change its pixels."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image of an EXIF orientation upright."""

FLOAT_TOLERANCE = 1e-4
"""Float images may leave [0, 1] by this much: interpolation overshoots by rounding errors."""


def load_image(source: ImageLike) -> RGB:
    """Turns any image into 8-bit RGB.

    Files and PIL images are turned upright by their EXIF orientation, only the first frame of an
    animation is read, transparency is laid over white, and 16-bit values are scaled to 8 bits.

    Args:
        source: One of

            - a path to an image file,
            - a PIL image of any mode (``I`` in 0 to 65535, ``F`` in [0, 1]),
            - an array (H,W), (H,W,1), (H,W,3) or (H,W,4) of uint8, uint16, bool or float in
              [0, 1]; a fourth channel is opacity,
            - a tensor (H,W), (1,H,W) or (3,H,W), uint8 or float in [0, 1].

    Returns:
        A new array (H,W,3) uint8, 0 to 255.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is a folder, empty, no image, damaged, over Pillow's limit of pixels, or
            of another shape, type or range of values; the message says what to do.
    """
    if isinstance(source, str | Path):
        return _from_file(Path(source))
    if isinstance(source, Image.Image):
        return _from_pil(source, "the PIL image")
    if isinstance(source, Tensor):
        return _from_tensor(source)
    if isinstance(source, np.ndarray):
        return _from_array(source, "the array")
    raise ValueError(
        f"an image is a path, a PIL image, a numpy array or a torch tensor; got "
        f"{type(source).__name__}."
    )


def find_images(
    paths: str | Path | Iterable[str | Path],
    recursive: bool = False,
    suffixes: Collection[str] = SUFFIXES,
) -> list[Path]:
    """Lists image files, with those of a folder or pattern in its place.

    Args:
        paths: Files, taken as they are; folders, whose images (by ``suffixes``; hidden files left
            out) are listed in natural order, ``frame2`` before ``frame10``; and patterns such as
            ``photos/*.jpg`` or ``photos/**/*.jpg``, whose matches are taken in natural order as if
            they had been given one by one. ``**`` enters no linked folders. A part of a pattern
            that is the name of a folder, such as ``[2024]``, stands for itself.
        recursive: List the images in subfolders too, hidden ones left out.
        suffixes: Endings, in lower case, by which files in folders are known.

    Returns:
        Paths of files, each file once; whether they can be read shows when they are loaded.

    Raises:
        ValueError: If a folder holds no image, or a pattern matches nothing.
    """
    found = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(path)
        if path.is_dir():
            found += _listed(path, recursive, suffixes)
        elif _WILDCARD.search(str(path)) and not path.exists():
            matches = sorted(_matches(path), key=_order)
            if not matches:
                raise ValueError(f"no file matches {str(path)!r}; check the pattern.")
            for match in matches:
                found += _listed(match, recursive, suffixes) if match.is_dir() else [match]
        else:
            found.append(path)
    once: dict[str, Path] = {}
    for path in found:
        once.setdefault(os.path.realpath(path), path)
    return list(once.values())


def _matches(pattern: Path) -> Iterator[Path]:
    """Yields what a pattern matches; hidden files only where it names a dot."""
    folder, parts = Path(pattern.anchor), list(pattern.parts[bool(pattern.anchor) :])
    while (folder / parts[0]).exists():
        folder /= parts.pop(0)
    for match in folder.glob(str(Path(*parts))):
        inner = match.relative_to(folder).parts
        if not any(part.startswith(".") for part in inner) or any(p[0] == "." for p in parts):
            yield match


def _listed(folder: Path, recursive: bool, suffixes: Collection[str]) -> list[Path]:
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        found += [
            Path(root, name)
            for name in names
            if Path(name).suffix.lower() in suffixes and not name.startswith(".")
        ]
    found = [path for path in found if path.is_file()]
    if not found:
        hint = "" if recursive else "; subfolders are searched only if asked (recursive)"
        raise ValueError(f"folder {folder} holds no images ({', '.join(suffixes)}){hint}.")
    return sorted(found, key=_order)


def _order(path: Path) -> list[tuple[list[str | int], str]]:
    """Orders paths by their parts, numbers in names by their value."""
    return [
        ([int(x) if i % 2 else x for i, x in enumerate(_NUMBER.split(part.casefold()))], part)
        for part in path.parts
    ]


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Turns what Pillow raises on a bad image into a ValueError that says what to do."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{what} is too large: {error} Scale it down, or raise PIL.Image.MAX_IMAGE_PIXELS if "
            "you trust it."
        ) from error
    except UnidentifiedImageError as error:
        raise ValueError(
            f"{what} is no image that Pillow can read; save it as JPEG or PNG."
        ) from error
    except Exception as error:  # On damaged files Pillow's readers raise nearly anything.
        raise ValueError(
            f"{what} cannot be read, it may be damaged or cut off ({error}); get it again or save "
            "it as JPEG or PNG."
        ) from error


def _from_file(path: Path) -> RGB:
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name an image in it, or list it with find_images.")
    if not path.exists():
        raise FileNotFoundError(f"no image at {path}; check the path.")
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError(f"{path} is an empty file; get the image again.")
    try:
        with _readable(str(path)):
            image = Image.open(path)
        with image:
            return _from_pil(image, str(path))
    except ValueError:
        pixels = _without_notes(path)
        if pixels is None:
            raise
    with Image.open(pixels) as image:
        return _from_pil(image, str(path))


def _without_notes(path: Path) -> BytesIO | None:
    """Returns a PNG without its text, EXIF and color profile; None if there is nothing to drop.

    Pillow refuses the whole file for a broken chunk of these.
    """
    data = path.read_bytes()
    if not data.startswith(PNG_SIGNATURE):
        return None
    kept, start = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while start + 8 <= len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4])
        if data[start + 4 : start + 8] not in PNG_NOTES:
            kept.append(data[start:end])
        start = end
    rest = b"".join(kept)
    return BytesIO(rest) if len(rest) < len(data) else None


def _from_pil(image: Image.Image, what: str) -> RGB:
    with _readable(what):
        image.load()  # Readers of TIFF turn images themselves, then.
        image = _upright(image)
        if image.mode.startswith("I;16"):
            # A gray value may stand for "transparent"; convert() would clip the others.
            clear = image.info.get("transparency")
            pixels = np.array(image)
            if isinstance(clear, int):
                pixels[pixels == clear] = np.iinfo(np.uint16).max
        elif image.mode in ("I", "F"):
            pixels = np.array(image)
        elif image.has_transparency_data:
            image = image.convert("LA") if image.mode == "La" else image
            pixels = np.array(image.convert("RGBA"))
        else:
            pixels = np.array(image.convert("RGB"))
    if image.mode == "I":
        low, high = (int(pixels.min()), int(pixels.max())) if pixels.size else (0, 0)
        if low < 0 or high > np.iinfo(np.uint16).max:
            raise ValueError(
                f"{what} holds values from {low} to {high}; images of mode I are 16-bit, 0 to "
                "65535: scale the values."
            )
        pixels = pixels.astype(np.uint16)
    return _from_array(pixels, what)


def _upright(image: Image.Image) -> Image.Image:
    """Turns an image by its EXIF orientation, where that can be read."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Broken EXIF makes Pillow raise nearly anything; the pixels are sound.
        return image
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _from_tensor(tensor: Tensor) -> RGB:
    shape = tuple(tensor.shape)
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        hint = (
            " Channels come first: tensor.permute(2, 0, 1)." if shape[-1:] in ((1,), (3,)) else ""
        )
        raise ValueError(f"an image tensor is (H,W), (1,H,W) or (3,H,W); got {shape}.{hint}")
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()  # numpy has no bfloat16
    return _from_array(tensor.permute(1, 2, 0).numpy(), "the tensor")


def _from_array(array: npt.NDArray[Any], what: str) -> RGB:
    shape = array.shape
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        hint = " Channels come last: array.transpose(1, 2, 0)." if shape[:1] in ((1,), (3,)) else ""
        raise ValueError(
            f"{what} has the shape {shape}; an image is (H,W), (H,W,1), (H,W,3) or (H,W,4).{hint}"
        )
    if array.size == 0:
        raise ValueError(f"{what} has no pixels: its height and width are {shape[:2]}.")
    pixels = _to_uint8(array, what)
    if pixels.shape[2] == 4:
        opacity = pixels[..., 3:].astype(np.uint16)
        over_white = pixels[..., :3] * opacity + 255 * (255 - opacity)
        return ((over_white + 127) // 255).astype(np.uint8)
    return np.array(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _to_uint8(values: npt.NDArray[Any], what: str) -> npt.NDArray[np.uint8]:
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind == "u" and values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if values.dtype.kind != "f":
        raise ValueError(
            f"{what} holds {values.dtype}; an image is uint8, uint16, bool or float in [0, 1]: "
            "convert it, for values from 0 to 255 to uint8."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{what} holds NaN or infinite values; replace them.")
    low, high = float(values.min()), float(values.max())
    if low < -FLOAT_TOLERANCE or high > 1 + FLOAT_TOLERANCE:
        raise ValueError(
            f"{what} holds values from {low:g} to {high:g}; float images are in [0, 1]: divide "
            "8-bit values by 255, or give them as uint8."
        )
    # At least float32: float16 cannot tell apart the values near 255 before rounding.
    scaled = values.astype(np.promote_types(values.dtype, np.float32)) * 255
    pixels: npt.NDArray[np.uint8] = np.rint(scaled).clip(0, 255).astype(np.uint8)
    return pixels
