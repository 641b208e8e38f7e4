"""Choice of the device."""

from __future__ import annotations

import re

import torch

DEVICES = ("auto", "cpu", "cuda", "mps")
"""Devices that the command line accepts."""


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """Returns the device of that name; ``auto`` takes CUDA, then MPS, then the CPU.

    Args:
        name: ``auto``, ``cpu``, ``cuda``, ``cuda:NUMBER``, ``mps`` or a device of torch.

    Raises:
        ValueError: If there is no such device here.
    """
    if name != "auto":
        return _checked(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _checked(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {str(name)!r}; allowed: {', '.join(DEVICES)}.") from None
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = re.split(r"[.\n]", str(error))[0]
        raise ValueError(
            f"there is no device {str(device)!r} here ({reason}); allowed: "
            f"{', '.join(x for x in DEVICES if x == 'cpu' or _available(x))}."
        ) from None
    return device


def _available(kind: str) -> bool:
    return {
        "auto": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }[kind]
