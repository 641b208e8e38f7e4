"""Read, save and tabulate the cost of CTN, MHN and STN (``python -m benchmarks complexity``)."""

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
    """The cost of one request on one image.

    Attributes:
        macs: Multiply-adds of convolutions and matrix products.
        norm_macs: Multiply-adds of norms that are not folded into a convolution, one per element
            of a feature; not included in ``macs``.
        peak_bytes: Peak bytes of tensors, without parameters and inputs.
        milliseconds: Median time.
        ratio: Median over rounds of the time divided by that of CTN's composite of the same size,
            which ran just before.
    """

    macs: int
    norm_macs: int
    peak_bytes: int
    milliseconds: float
    ratio: float


@dataclass(frozen=True)
class SystemCost:
    """The cost of one system.

    Attributes:
        size: ``paper``, ``compact`` or ``light``, also the name of the decoder.
        system: ``ctn``, ``mhn`` or ``stn``.
        encoder: Name of the encoder.
        parameters: Number of parameters for all tasks.
        composite: Cost of one composite that asks for every task somewhere.
        dense: Cost of every task everywhere, from one encoding of the image.
    """

    size: str
    system: str
    encoder: str
    parameters: int
    composite: Cost
    dense: Cost


@dataclass(frozen=True)
class Complexity:
    """The costs of all systems, and the machine.

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
    """Reads a file written by :meth:`Complexity.save`.

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
    """Builds a Markdown table with a row per size, system and request."""
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
