"""What CTN, MHN and STN cost, as ``python -m benchmarks complexity`` measured it: file and table.

The measuring itself is in ``benchmarks/complexity.py``, which is no part of the package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

COMPLEXITY_FILE = "complexity.json"
"""Name of the file in the folder of results."""

SYSTEM_NAMES = {"ctn": "CTN", "mhn": "MHN", "stn": "STN"}


@dataclass(frozen=True)
class Cost:
    """What one request costs on one image.

    Attributes:
        macs: Multiply-adds of convolutions and matrix products.
        norm_macs: Multiply-adds of norms that are not folded into a convolution, one for each
            element of a feature; not in ``macs``.
        peak_bytes: Most bytes of tensors alive at once, beyond parameters and inputs.
        milliseconds: Median time.
        ratio: Median over rounds of the time as a multiple of CTN's one composite of the same
            size, run right before.
    """

    macs: int
    norm_macs: int
    peak_bytes: int
    milliseconds: float
    ratio: float


@dataclass(frozen=True)
class SystemCost:
    """What one system costs.

    Attributes:
        size: ``paper``, ``compact`` or ``light``, also the name of the decoder.
        system: ``ctn``, ``mhn`` or ``stn``.
        encoder: Name of the encoder.
        parameters: Number of parameters for all tasks.
        composite: One composite in which every task is asked somewhere.
        dense: Every task everywhere, on one encoding of the image.
    """

    size: str
    system: str
    encoder: str
    parameters: int
    composite: Cost
    dense: Cost


@dataclass(frozen=True)
class Complexity:
    """All systems, and where they were measured.

    Attributes:
        systems: The systems' costs.
        side: Height and width of the image in pixels.
        rounds: Rounds of timing.
        threads: Threads of torch.
        cpu: Name of the processor.
        torch: Version of torch.
    """

    systems: tuple[SystemCost, ...]
    side: int
    rounds: int
    threads: int
    cpu: str
    torch: str

    def save(self, path: str | Path) -> None:
        """Writes JSON."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")


def read_complexity(path: str | Path) -> Complexity:
    """Reads what :meth:`Complexity.save` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If the file has other fields.
    """

    def system(values: Mapping[str, Any]) -> SystemCost:
        costs = {name: Cost(**values[name]) for name in ("composite", "dense")}
        return SystemCost(**{**values, **costs})

    values: dict[str, Any] = json.loads(Path(path).read_text("utf-8"))
    return Complexity(**{**values, "systems": tuple(map(system, values["systems"]))})


def complexity_table(complexity: Complexity) -> str:
    """Builds a Markdown table: a row for each size, system and request."""
    side = complexity.side
    lines = [
        "| Size | System | Parameters | Request | GMAC | Peak memory | Time | Time ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cost in complexity.systems:
        for request, x in (("one composite", cost.composite), ("five dense tasks", cost.dense)):
            lines.append(
                f"| {cost.size} ({cost.encoder}) | {SYSTEM_NAMES[cost.system]} | "
                f"{cost.parameters / 1e6:.2f} M | {request} | {x.macs / 1e9:.2f} | "
                f"{x.peak_bytes / 2**20:.1f} MiB | {x.milliseconds:.0f} ms | {x.ratio:.2f} |"
            )
    norms = {cost.system: cost.composite for cost in complexity.systems if cost.size == "paper"}
    shares = ", ".join(
        f"{SYSTEM_NAMES[system]} {cost.norm_macs / 1e9:.2f}" for system, cost in norms.items()
    )
    lines += [
        "",
        f"{side} × {side}, batch 1, fp32, untrained weights; peak memory is of tensors beyond "
        f"parameters and image. {complexity.cpu}, "
        f"{complexity.threads} threads, torch {complexity.torch}; medians of {complexity.rounds} "
        "rounds. Time ratio: to the one composite of the CTN of the same size, run right before.",
    ]
    if shares:
        lines[-1] += (
            " GMAC leave out the scale and shift of norms, which for one composite at paper size "
            f"add (GMAC): {shares}."
        )
    return "\n".join(lines)
