"""Our networks against networks of one task that one would take in their place, run in turn."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.speed import Bench, Measured
from ctnet.models.ctn import CTN
from ctnet.profiling.measure import Run, cpu_name, quartiles, seconds_in_turn

REFERENCE = "lraspp_mobilenet_v3_large"
"""The network that times are compared with: torchvision's fastest for segmentation."""

ALTERNATIVES = (REFERENCE, "deeplabv3_mobilenet_v3_large")
"""Names of torchvision's networks, which do one task each."""

DECODERS = ("light", "compact")
"""Our decoders, on EfficientNet-Lite0."""

LIMITS = {"one composite": 2.0, "all five tasks": 4.0}
"""Largest ratio that is allowed of the decoder ``light``, at the first side."""

SIDES = (320, 512)


@dataclass(frozen=True)
class Cost:
    """Time of one run on one image.

    Attributes:
        side: Height and width of the image in pixels.
        network: Name of torchvision's network, or of our decoder.
        request: What was asked of ours, empty for torchvision's.
        milliseconds: First quartile, median and third quartile.
        ratios: First quartile over rounds of the time as a multiple of the reference's in the same
            round, ratio of the medians, and third quartile.
        limit: Largest ratio that is aimed at, None where there is none.
    """

    side: int
    network: str
    request: str
    milliseconds: tuple[float, float, float]
    ratios: tuple[float, float, float]
    limit: float | None


@dataclass(frozen=True)
class Comparison(Measured):
    """All times, and where they were measured."""

    costs: tuple[Cost, ...]
    device: str
    threads: int
    rounds: int
    torch: str

    @classmethod
    def load(cls, path: str | Path) -> Comparison:
        """Reads JSON."""
        values: dict[str, Any] = json.loads(Path(path).read_text("utf-8"))
        return cls(**values | {"costs": tuple(Cost(**cost) for cost in values["costs"])})

    def table(self) -> str:
        """Returns a Markdown table."""
        lines = [
            "| Image | Network | Asked for | Time (quartiles) | Ratio (quartiles) | Limit |",
            "|---|---|---|---|---|---|",
        ]
        for x in self.costs:
            low, time, high = x.milliseconds
            least, ratio, most = x.ratios
            lines.append(
                f"| {x.side} x {x.side} | `{x.network}` | {x.request or 'one task'} | "
                f"{time:.1f} ms ({low:.1f} to {high:.1f}) | {ratio:.2f} ({least:.2f} to {most:.2f})"
                f" | {'' if x.limit is None else f'{x.limit:.1f}'} |"
            )
        return "\n".join(lines)


def _torchvision(name: str) -> nn.Module:
    from torchvision.models import get_model

    model: nn.Module = get_model(name, weights=None, weights_backbone=None)
    return model.eval().to(memory_format=torch.channels_last)


def _everything(model: CTN, image: torch.Tensor) -> torch.Tensor:
    return model.decode_all(model.encode(image))


def _editing(model: CTN, image: torch.Tensor, palette: torch.Tensor) -> Run:
    """Makes a run that edits a quarter of each side of a palette, to and fro."""
    session, side = model.session(image), image.shape[-1]
    box = slice(side * 3 // 8, side * 5 // 8)
    other = palette.clone()
    other[:, box, box] = (palette[:, box, box] + 1) % len(model.tasks)
    session.decode(palette)
    turns = itertools.cycle((other, palette))
    return lambda: session.decode(next(turns))


def runs_of(bench: Bench, side: int) -> dict[tuple[str, str], Run]:
    """Makes what is timed, by network and request; the first is the reference."""
    image, palettes = bench.image(1, side), bench.palettes(1, side)
    runs: dict[tuple[str, str], Run] = {
        (name, ""): partial(_torchvision(name), image) for name in ALTERNATIVES
    }
    for name in DECODERS:
        model = bench.model(name).fuse()
        requests: dict[str, Run] = {
            "one composite": partial(model, image, palettes["mosaic"]),
            "one task everywhere": partial(model, image, palettes["single"]),
            "all five tasks": partial(_everything, model, image),
            "an edit of a sixteenth": _editing(model, image, palettes["mosaic"]),
        }
        runs |= {(name, request): run for request, run in requests.items()}
    return runs


@torch.inference_mode()
def compare(
    bench: Bench,
    threads: int = 2,
    sides: Sequence[int] = SIDES,
    report: Callable[[str], None] = print,
) -> Comparison:
    """Times all networks in turn, round after round.

    Args:
        bench: Device, rounds, and whether images are small.
        threads: Threads of torch.
        sides: Heights and widths of the images in pixels.
        report: Is told of each size that begins.

    Raises:
        ValueError: If there is less than one round or thread.
    """
    if bench.rounds < 1 or threads < 1:
        raise ValueError(f"at least one round and one thread; got {bench.rounds} and {threads}.")
    torch.set_num_threads(threads)
    costs = []
    for side in sides:
        report(f"{side} x {side} ...")
        seconds = seconds_in_turn(runs_of(bench, bench.side(side)), bench.rounds)
        reference = seconds[REFERENCE, ""]
        for (network, request), own in seconds.items():
            ratio = statistics.median(own) / statistics.median(reference)
            low, _, high = quartiles([a / b for a, b in zip(own, reference, strict=True)])
            limited = network == "light" and side == sides[0]
            costs.append(
                Cost(
                    side,
                    network,
                    request,
                    _rounded(quartiles([1000 * x for x in own]), 2),
                    _rounded((low, ratio, high), 4),
                    LIMITS.get(request) if limited else None,
                )
            )
    version = torch.__version__.partition("+")[0]
    return Comparison(tuple(costs), cpu_name(), threads, bench.rounds, version)


def _rounded(values: tuple[float, float, float], digits: int) -> tuple[float, float, float]:
    low, middle, high = (round(value, digits) for value in values)
    return low, middle, high
