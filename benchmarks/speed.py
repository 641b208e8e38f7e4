"""What conditioning costs, and what is saved: ratios of interleaved runs against their limits."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.formulations import Twin
from ctnet import reference
from ctnet.blocks.decoder_config import LEVELS
from ctnet.blocks.palette_pyramid import palette_pyramid
from ctnet.data.palette_batches import make_palettes
from ctnet.fused import block as fused
from ctnet.models.base import create
from ctnet.models.ctn import CTN
from ctnet.profiling.measure import Run, cpu_name, peak_bytes, time_in_turn
from ctnet.rules import R1, R2, RRND

ENCODERS = {
    "paper": "resnet34",
    "compact": "efficientnet_lite0",
    "light": "efficientnet_lite0",
}
"""Encoder of each size; the size's name is the decoder's."""

TRAINING_BATCH = 4


@dataclass(frozen=True)
class Finding:
    """One ratio.

    Attributes:
        question: What is compared, and where.
        ratio: Time (or memory) of the subject as a multiple of the reference's: of the medians.
        limit: Largest ratio that is aimed at, None where there is none.
        milliseconds: Median time of the subject; 0 for memory.
        reference: Median time of the reference; 0 for memory.
        part: Name of the measurement that it belongs to.
        quartiles: First and third quartile of the ratio over rounds; None for memory.
    """

    question: str
    ratio: float
    limit: float | None
    milliseconds: float = 0.0
    reference: float = 0.0
    part: str = ""
    quartiles: tuple[float, float] | None = None


class Measured:
    """What measurements have in common: a file, and where they were made."""

    device: str
    threads: int
    rounds: int
    torch: str

    def save(self, path: str | Path) -> None:
        """Writes JSON."""
        values = asdict(cast(Any, self))
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(values, indent=1) + "\n", "utf-8")

    def place(self) -> str:
        """Returns a line that says where this was measured."""
        return f"{self.device}, {self.threads} threads, torch {self.torch}, {self.rounds} rounds"


@dataclass(frozen=True)
class Speed(Measured):
    """All findings, and where they were measured."""

    findings: tuple[Finding, ...]
    device: str
    threads: int
    rounds: int
    torch: str

    @classmethod
    def load(cls, path: str | Path) -> Speed:
        """Reads JSON."""
        values = json.loads(Path(path).read_text("utf-8"))
        findings = tuple(Finding(**finding) for finding in values.pop("findings"))
        return cls(findings=findings, **values)

    def on_top_of(self, earlier: Speed) -> Speed:
        """Returns an earlier measurement with the parts of this one measured again.

        Raises:
            ValueError: If it was made on another device, with other threads or another torch.
        """
        places = [(x.device, x.threads, x.torch) for x in (self, earlier)]
        if places[0] != places[1]:
            raise ValueError(
                f"parts measured on {earlier.place()} do not stand beside parts measured on "
                f"{self.place()}: write to another file, or measure all parts."
            )
        parts = {finding.part for finding in self.findings}
        kept = tuple(x for x in earlier.findings if x.part not in parts)
        return replace(earlier, findings=kept + self.findings)

    def table(self, part: str | None = None) -> str:
        """Returns a Markdown table of all findings, or of one measurement."""
        lines = [
            "| Comparison | Time | Reference | Ratio (quartiles) | Limit |",
            "|---|---|---|---|---|",
        ]
        for x in self.findings:
            if part not in (None, x.part):
                continue
            times = [f"{ms:.1f} ms" if ms else "" for ms in (x.milliseconds, x.reference)]
            limit = "" if x.limit is None else f"{x.limit:.2f}"
            ratio = f"{x.ratio:.3f}"
            if x.quartiles is not None:
                ratio += f" ({x.quartiles[0]:.2f} to {x.quartiles[1]:.2f})"
            lines.append(f"| {x.question} | {' | '.join(times)} | {ratio} | {limit} |")
        return "\n".join(lines)


@dataclass(frozen=True)
class Bench:
    """Where and how to measure.

    Attributes:
        device: Device of torch.
        rounds: Rounds of timing.
        quick: Small images and batches: a check that everything runs, no measurement.
        compile: Measure the look-up compiled by ``torch.compile`` too.
    """

    device: str = "cpu"
    rounds: int = 7
    quick: bool = False
    compile: bool = False

    def side(self, side: int) -> int:
        """Returns a side in pixels, smaller in a quick check."""
        return side // 4 if self.quick else side

    def model(self, size: str) -> CTN:
        """Builds a network in eval mode."""
        torch.manual_seed(0)
        model = cast(CTN, create("ctn", ENCODERS[size], size)).eval().to(self.device)
        return model.to(memory_format=torch.channels_last)

    def image(self, batch: int, side: int) -> Tensor:
        """Draws images (batch,3,side,side)."""
        image = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
        return image.to(self.device).contiguous(memory_format=torch.channels_last)

    def palettes(self, batch: int, side: int) -> dict[str, Tensor]:
        """Draws palettes (batch,side,side) of each kind."""
        generator = np.random.default_rng(0)
        draw = partial(make_palettes, count=batch, size=(side, side), device=self.device)
        return {
            "single": torch.full((batch, side, side), 2, device=self.device),
            "mosaic": draw(R1, generator=generator),
            "random": draw(RRND, generator=generator),
        }

    def compare(
        self, question: str, runs: Mapping[str, Run], limits: Mapping[str, float]
    ) -> list[Finding]:
        """Times runs against the first of them; ``{}`` in the question is the run's name."""
        found = time_in_turn(runs, self.rounds)
        first, *others = found
        findings = []
        for name in others:
            low, high = found[name].quartiles
            findings.append(
                Finding(
                    question.format(name),
                    round(found[name].ratio, 4),
                    limits.get(name),
                    round(found[name].milliseconds, 2),
                    round(found[first].milliseconds, 2),
                    quartiles=(round(low, 4), round(high, 4)),
                )
            )
        return findings


@torch.inference_mode()
def conditioning(bench: Bench) -> list[Finding]:
    """Compares networks with their plain twins, the paper's size also with its literal form."""
    found = []
    for size, side in (("light", 256), ("light", 512), ("compact", 256), ("compact", 512)):
        side = bench.side(side)
        image, twin, quick = bench.image(1, side), Twin(bench.model(size)), bench.model(size).fuse()
        runs: dict[str, Run] = {"twin": partial(twin, image)}
        for kind, palette in bench.palettes(1, side).items():
            runs[kind] = partial(quick, image, palette)
        limits = {"single": 1.0, "mosaic": 1.05, "random": 1.1} if size == "light" else {}
        question = f"{{}} / plain twin, {size} size, {side} x {side}, batch 1"
        found += bench.compare(question, runs, limits)
    for batch, side in ((1, 256), (8, 256), (1, 512)):
        side = bench.side(side)
        model, image = bench.model("paper"), bench.image(batch, side)
        palettes, twin = bench.palettes(batch, side), Twin(model)
        where = f"paper size, {side} x {side}, batch {batch}"
        runs = {"twin": partial(twin, image)}
        quick = bench.model("paper").fuse()
        compiled = bench.model("paper").fuse(compile=True) if bench.compile else None
        for kind, palette in palettes.items():
            runs[kind] = partial(quick, image, palette)
            if compiled is not None and kind != "single":
                runs[f"{kind}, compiled"] = partial(compiled, image, palette)
        limits = {"single": 1.03, "mosaic": 1.15, "random": 1.15}
        limits |= {f"{kind}, compiled": 1.05 for kind in ("mosaic", "random")}
        found += bench.compare(f"{{}} / plain twin, {where}", runs, limits)
        by_pixel = partial(reference.ctn, model, image, palettes["mosaic"])
        runs = {"literal": by_pixel, "mosaic": runs["mosaic"]}
        found += bench.compare(f"{{}} / literal, {where}", runs, {"mosaic": 1 / 2.6})
        known = [*model.parameters(), *model.buffers(), image, *palettes.values()]
        share = peak_bytes(runs["mosaic"], known) / peak_bytes(by_pixel, known)
        limit = 0.45 if batch == 8 else None
        found.append(Finding(f"memory of mosaic / literal, {where}", round(share, 4), limit))
    return found


@torch.inference_mode()
def steps(bench: Bench) -> list[Finding]:
    """Measures what each step from the paper's formulation brought."""
    side = bench.side(256)
    image, mosaic = bench.image(1, side), bench.palettes(1, side)["mosaic"]
    plain, joined = bench.model("paper"), bench.model("paper").fuse()
    with _joined():
        joined.fused_network()
    runs: dict[str, Run] = {
        "literal": partial(reference.ctn, plain, image, mosaic),
        "tables by task, a look-up per pixel": partial(plain, image, mosaic),
        "and norms folded, looked up in place": partial(joined, image, mosaic),
        "and convolved before upsampling": partial(bench.model("paper").fuse(), image, mosaic),
    }
    if bench.compile:
        compiled = bench.model("paper").fuse(compile=True)
        runs["and the look-up compiled"] = partial(compiled, image, mosaic)
    return bench.compare(f"{{}} / literal, paper size, {side} x {side}", runs, {})


@contextmanager
def _joined() -> Iterator[None]:
    """Networks that are compiled within convolve what they upsampled, as the paper's does."""
    wide, fused.WIDE = fused.WIDE, sys.maxsize
    try:
        yield
    finally:
        fused.WIDE = wide


@torch.inference_mode()
def beyond(bench: Bench) -> list[Finding]:
    """Measures what is saved below a plain network: smaller sizes, edits, all tasks at once."""
    side = bench.side(512)
    found, image = [], bench.image(1, side)
    mosaic = bench.palettes(1, side)["mosaic"]
    runs: dict[str, Run] = {"paper twin": partial(Twin(bench.model("paper")), image)}
    for size in ("light", "compact"):
        runs[size] = partial(bench.model(size).fuse(), image, mosaic)
    found += bench.compare(f"{{}} / paper-size twin, {side} x {side}", runs, {"light": 0.2})
    edges = side * 3 // 8, side * 5 // 8
    for size in ENCODERS:
        model = bench.model(size).fuse()
        for shift in (0, 13):
            box = slice(edges[0] + shift, edges[1] + shift)
            palettes = [mosaic.clone(), mosaic.clone()]
            palettes[1][:, box, box] = (mosaic[:, box, box] + 1) % 5
            session, turn = model.session(image), iter(range(10**9))
            session.decode(palettes[1])
            runs = {
                "full pass": partial(model, image, mosaic),
                "second palette": partial(model.decode, session.features, mosaic),
                "edit": lambda s=session, p=palettes, t=turn: s.decode(p[next(t) % 2]),  # type: ignore[misc]
            }
            place = "" if not shift else ", off the grid"
            question = f"{{}} / full pass, {size}, {side} x {side}, a sixteenth{place}"
            found += bench.compare(question, runs, {"edit": 0.25})
        small = bench.image(1, bench.side(256))
        single = [torch.full(small.shape[2:], task, device=bench.device) for task in range(5)]
        runs = {
            "five passes": lambda m=model, x=small, p=single: [m(x, task) for task in p],  # type: ignore[misc]
            "all at once": lambda m=model, x=small: m.decode_all(m.encode(x)),  # type: ignore[misc]
        }
        limits = {"all at once": 0.75} if size == "paper" else {}
        found += bench.compare(f"{{}} / five passes, {size}, {small.shape[3]} px", runs, limits)
    return found


def training(bench: Bench) -> list[Finding]:
    """Compares a training step with that of the same network with plain batch norm."""
    side = bench.side(256)
    image = bench.image(TRAINING_BATCH, side)
    mosaic = bench.palettes(TRAINING_BATCH, side)["mosaic"]
    model = bench.model("paper").train()
    plain = bench.model("paper").train()
    plain.decoder = plain.decoder.specialize(plain.representation().detach()[0]).train()

    def step(network: CTN, palette: Tensor | None) -> None:
        network.zero_grad()
        features = network.encode(image)
        answer = (
            network.decoder(features.image, features.pyramids[0], None)
            if palette is None
            else network.decode(features, palette)
        )
        answer.square().mean().backward()

    runs = {"plain": partial(step, plain, None), "conditioned": partial(step, model, mosaic)}
    where = f"{side} x {side}, batch {TRAINING_BATCH}"
    return bench.compare(f"training step, {{}} / plain, {where}", runs, {"conditioned": 1.15})


@torch.inference_mode()
def batches(bench: Bench) -> list[Finding]:
    """Measures time per image against the batch."""
    model, side = bench.model("light").fuse(), bench.side(256)
    found = []
    for batch in (2, 4, 8):
        one, many = bench.image(1, side), bench.image(batch, side)
        runs = {
            "one": partial(model, one, bench.palettes(1, side)["mosaic"]),
            "many": partial(model, many, bench.palettes(batch, side)["mosaic"]),
        }
        (x,) = bench.compare("", runs, {})
        question = f"time of {batch} images / one after another, light, {side} x {side}"
        low, high = (round(value / batch, 4) for value in x.quartiles or (x.ratio, x.ratio))
        ratio, reference = round(x.ratio / batch, 4), round(x.reference * batch, 2)
        found.append(
            Finding(question, ratio, None, x.milliseconds, reference, quartiles=(low, high))
        )
    return found


@torch.inference_mode()
def palettes(bench: Bench) -> list[Finding]:
    """Compares making palettes and their mixtures with the network's own time, a palette each."""
    side, count = bench.side(256), 8
    image, generator = bench.image(1, side), np.random.default_rng(0)
    classes = torch.randint(21, (count, side // 16, side // 16), device=bench.device)
    labels = classes.repeat_interleave(16, 1).repeat_interleave(16, 2)
    mosaic, many = (bench.palettes(batch, side)["mosaic"] for batch in (1, count))
    make = partial(make_palettes, count=count, size=(side, side), generator=generator)
    runs: dict[str, Run] = {
        "network": partial(bench.model("light").fuse(), image, mosaic),
        f"{count} mosaics": partial(make, R1, device=bench.device),
        f"{count} semantic palettes": partial(make, R2, labels=labels, device=bench.device),
        f"{count} mosaics' mixtures": partial(palette_pyramid, many, 5, LEVELS),
    }
    limits = dict.fromkeys(runs, 0.02 * count)
    return bench.compare(f"{{}} / one composite, light, {side} x {side}", runs, limits)


Part = Callable[[Bench], list[Finding]]

PARTS: dict[str, Part] = {
    "conditioning": conditioning,
    "steps": steps,
    "beyond": beyond,
    "training": training,
    "batches": batches,
    "palettes": palettes,
}
"""Measurements by name."""


def measure(bench: Bench, parts: Mapping[str, Part], threads: int = 2) -> Speed:
    """Runs measurements, by name.

    Raises:
        ValueError: If there is less than one round or thread.
    """
    if bench.rounds < 1 or threads < 1:
        raise ValueError(f"at least one round and one thread; got {bench.rounds} and {threads}.")
    torch.set_num_threads(threads)
    found = [replace(finding, part=name) for name, part in parts.items() for finding in part(bench)]
    device = torch.cuda.get_device_name() if bench.device == "cuda" else cpu_name()
    return Speed(tuple(found), device, threads, bench.rounds, torch.__version__.partition("+")[0])
