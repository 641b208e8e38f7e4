"""Memory of a composite, and of a whole process that predicts a photograph of 12 megapixels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.formulations import Twin
from benchmarks.speed import ENCODERS, Bench
from ctnet.profiling.measure import peak_bytes

PROCESS_LIMIT = 2048
"""Most MiB that a process with a photograph of 12 megapixels should take."""

PROCESS = """
from pathlib import Path
import numpy as np
import ctnet
model = ctnet.create("ctn", "{encoder}", "{decoder}").eval()
photograph = np.random.default_rng(0).integers(256, size={size}[::-1] + (3,), dtype=np.uint8)
model.predict(photograph, "mosaic", long_side=max({size}))
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(status["VmHWM"].split()[0])
"""
"""Program that prints the most memory that it had, in KiB; that of ``resource`` would start from
what the process had that started it."""


@dataclass(frozen=True)
class Footprint:
    """One measurement of memory.

    Attributes:
        question: What takes it, and what it is compared with.
        mebibytes: Most that it takes at a time.
        reference: What it is compared with, in MiB.
        limit: Largest ratio of the two that is aimed at, None where there is none.
    """

    question: str
    mebibytes: float
    reference: float
    limit: float | None = None


@torch.inference_mode()
def measure(quick: bool = False) -> list[Footprint]:
    """Measures tensors of a composite beyond weights and image, and processes (Linux), in float32.

    Args:
        quick: With small images: a check that everything runs, no measurement.
    """
    bench = Bench(quick=quick)
    side = bench.side(512)
    image, mosaic = bench.image(1, side), bench.palettes(1, side)["mosaic"]
    peaks, twins = {}, {}
    for size in ENCODERS:
        peaks[size] = _peak(partial(bench.model(size).fuse(), image, mosaic), image, mosaic)
        twins[size] = _peak(partial(Twin(bench.model(size)), image), image)
    where = f"a composite of {side} x {side}"
    found = [Footprint(f"{where}, light / compact", peaks["light"], peaks["compact"], 0.5)]
    for size in ENCODERS:
        found.append(Footprint(f"{where}, {size} / plain twin", peaks[size], twins[size]))
    large = (bench.side(4000), bench.side(3000))
    for size in ENCODERS:
        limit = 1.0 if size == "light" else None
        question = f"a process, photograph of {large[0]} x {large[1]}, {size} / 2 GiB"
        found.append(Footprint(question, _process(size, large), PROCESS_LIMIT, limit))
    return found


def _peak(run: Callable[[], object], *known: Tensor) -> float:
    run()
    return round(peak_bytes(run, known) / 2**20, 1)


def _process(size: str, large: tuple[int, int]) -> float:
    script = PROCESS.format(encoder=ENCODERS[size], decoder=size, size=large)
    environment = os.environ | {"CTNET_PRECISION": "float32"}
    printed = subprocess.check_output([sys.executable, "-c", script], text=True, env=environment)
    return round(int(printed) / 2**10, 1)


def save(found: list[Footprint], path: Path) -> None:
    """Writes JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(x) for x in found], indent=1) + "\n", "utf-8")


def memory_table(path: Path) -> str:
    """Returns the Markdown table of a file that :func:`save` wrote."""
    lines = ["| Comparison | Memory | Reference | Ratio | Limit |", "|---|---|---|---|---|"]
    for x in (Footprint(**values) for values in json.loads(path.read_text("utf-8"))):
        limit = "" if x.limit is None else f"{x.limit:.2f}"
        cells = f"{x.mebibytes:.0f} MiB", f"{x.reference:.0f} MiB"
        ratio = x.mebibytes / x.reference
        lines.append(f"| {x.question} | {' | '.join(cells)} | {ratio:.2f} | {limit} |")
    return "\n".join(lines)
