"""Reads safetensors: the header is checked against the network before any tensor is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

FLOATS = ("F64", "F32", "F16", "BF16")
WHOLES = ("I64", "I32")
MAX_HEADER = 8 << 20
"""Largest header in bytes: some 50,000 tensors."""


def read_tensors(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Reads the tensors of a file, which must be exactly the expected ones.

    Names, shapes and types are compared first, so that a file cannot ask for more memory than the
    network has parameters. The library refuses headers whose offsets overlap, leave holes, or do
    not fit the shapes or the file.

    Args:
        path: A safetensors file.
        expected: Tensors by name, with the shapes and types wanted; they may be on the device
            ``meta``. Floats of any precision are read as the expected one.

    Returns:
        Tensors by name on the CPU, each with memory of its own.

    Raises:
        ValueError: If the file is damaged or holds other tensors.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if size < 8 or header > min(MAX_HEADER, size - 8):
        raise ValueError(
            f"{path} is no safetensors file: its header would have {header} bytes; the file has "
            f"{size}, and at most {MAX_HEADER} are allowed."
        )
    try:
        with safe_open(path, "pt") as content:
            names = set(content.keys())
            _check_names(path, names, set(expected))
            for name, wanted in expected.items():
                entry = content.get_slice(name)
                shape, kind = tuple(entry.get_shape()), entry.get_dtype()
                allowed = FLOATS if wanted.is_floating_point() else WHOLES
                if shape != tuple(wanted.shape) or kind not in allowed:
                    raise ValueError(
                        f"{name} is {kind} {shape!s:.100}, expected {' or '.join(allowed)} "
                        f"{tuple(wanted.shape)}."
                    )
            # Copies: what is mapped from a file changes, or ends, with the file.
            return {
                name: content.get_tensor(name).to(wanted.dtype, copy=True)
                for name, wanted in expected.items()
            }
    except (SafetensorError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no valid safetensors file: {error}") from error


def _check_names(path: Path, found: set[str], expected: set[str]) -> None:
    problems = [
        f"{what} {_some(names)}"
        for what, names in (("missing", expected - found), ("unknown", found - expected))
        if names
    ]
    if problems:
        raise ValueError(f"{path} has other tensors than the network; {'; '.join(problems)}.")


def _some(names: Iterable[str]) -> str:
    """Names the first few."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(ordered[:3]) + more
