"""The number type of inference: bfloat16 where the processor has instructions for it.

``CTNET_PRECISION=float32`` turns it off, and :func:`set_precision` does for a program.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import torch

from ctnet.checks import did_you_mean

Precision = Literal["auto", "float32", "bfloat16"]

CPU_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""What processors with instructions for bfloat16 say of themselves: x86, and ``bf16`` on Arm."""

_CPU_INFO = Path("/proc/cpuinfo")

_precision = os.environ.get("CTNET_PRECISION", "auto")


def set_precision(precision: Precision) -> None:
    """Chooses the number type in which ``predict``, sessions and the demo compute.

    Training and ``model(...)`` are not concerned, nor a network after ``model.fuse(dtype)``.

    Args:
        precision: ``auto`` (bfloat16 where the device has instructions for it, else float32),
            ``float32`` or ``bfloat16``.

    Raises:
        ValueError: If it is none of these.
    """
    global _precision
    _precision = _checked(precision)


def inference_dtype(device: torch.device, parameters: torch.dtype) -> torch.dtype:
    """Returns the number type to compute in.

    Args:
        device: Where the network is.
        parameters: Type of its parameters; another one than float32 stays.
    """
    precision = _checked(_precision)
    if parameters != torch.float32 or precision == "float32":
        return parameters
    if precision == "bfloat16" or has_bfloat16(device):
        return torch.bfloat16
    return parameters


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16, so that it is faster there than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and cpu_has_bfloat16()


@cache
def cpu_has_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16, as Linux tells."""
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        return False
    for line in lines:
        name, _, values = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return not CPU_FLAGS.isdisjoint(values.split())
    return False


def _checked(precision: str) -> str:
    if precision not in get_args(Precision):
        raise ValueError(
            f"unknown precision {precision!r}{did_you_mean(precision, get_args(Precision))}"
        )
    return precision
