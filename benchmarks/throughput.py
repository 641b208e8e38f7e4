"""Photographs per second of ``ctnet predict`` on a folder, and what a million of them take."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ctnet.profiling.measure import cpu_name
from tools.pages import replace_marked

EXAMPLES = Path("examples")
SIDE = 500
MILLION = 1_000_000

RUNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("one process", ("--processes", "1")),
    ("two processes", ("--processes", "2")),
    ("two processes, `--files labels`", ("--processes", "2", "--files", "labels")),
    ("two processes, `--files pictures`", ("--processes", "2", "--files", "pictures")),
    ("Ray, one worker", ("--engine", "ray", "--processes", "1")),
    ("Ray, two workers", ("--engine", "ray", "--processes", "2")),
)
"""What is measured: its name, and options of ``ctnet predict``."""


@dataclass(frozen=True)
class Throughput:
    """How long folders take.

    Attributes:
        processor: The processor.
        count: Photographs in the folder.
        seconds: Seconds of each run, start included, by its name.
        start: Seconds of each run on a single photograph.
    """

    processor: str
    count: int
    seconds: dict[str, float]
    start: dict[str, float]

    def table(self) -> str:
        """Returns the page's table."""
        lines = [
            f"{self.count} photographs of {SIDE} px on 2 cores of an {self.processor}, rule R2, "
            "model `ctn-r2`. The rate leaves out the start (loading torch, weights and Ray), which "
            "a long run pays once.",
            "",
            "| Run | Start | Photographs per second | A million take, in core hours |",
            "|---|---|---|---|",
        ]
        for name, seconds in self.seconds.items():
            spent = seconds - self.start[name]
            rate = (self.count - 1) / spent
            cores = 1 if name == "Ray, one worker" else 2
            hours = MILLION / rate * cores / 3600
            lines.append(f"| {name} | {self.start[name]:.1f} s | {rate:.1f} | {hours:.0f} |")
        return "\n".join(lines)


def measure(count: int, names: Sequence[str] = ()) -> Throughput:
    """Runs ``ctnet predict`` on a folder of photographs that are cut from the examples.

    Args:
        count: Photographs.
        names: Runs to measure; all where empty.
    """
    seconds, start = {}, {}
    with tempfile.TemporaryDirectory() as work:
        many, one = (Path(work) / name for name in ("many", "one"))
        _write(many, count)
        _write(one, 1)
        for name, words in RUNS:
            if names and name not in names:
                continue
            start[name] = _run(one, Path(work) / "out-one", words)
            seconds[name] = _run(many, Path(work) / "out", words)
    return Throughput(cpu_name(), count, seconds, start)


def save(found: Throughput, path: Path) -> None:
    """Writes the measurements."""
    path.write_text(json.dumps(asdict(found), indent=1) + "\n")


def write_page(results: Path, page: Path) -> None:
    """Writes the table of a page from the measurements."""
    found = Throughput(**json.loads(results.read_text()))
    page.write_text(replace_marked(page.read_text("utf-8"), "throughput", found.table()), "utf-8")


def _write(folder: Path, count: int) -> None:
    folder.mkdir()
    sources = [Image.open(path).convert("RGB") for path in sorted(EXAMPLES.glob("*.jpg"))]
    generator = np.random.default_rng(0)
    for number in range(count):
        source = sources[number % len(sources)]
        width, height = source.size
        part = generator.uniform(0.6, 1.0)
        left = int(generator.integers(0, int(width * (1 - part)) + 1))
        top = int(generator.integers(0, int(height * (1 - part)) + 1))
        box = (left, top, left + int(width * part), top + int(height * part))
        cut = source.crop(box)
        cut.thumbnail((SIDE, SIDE))
        scale = SIDE / max(cut.size)
        cut.resize((round(cut.width * scale), round(cut.height * scale))).save(
            folder / f"p{number:04}.jpg", quality=90
        )


def _run(folder: Path, out: Path, words: Sequence[str]) -> float:
    command = [sys.executable, "-m", "ctnet", "predict", str(folder), "--out", str(out)]
    started = time.monotonic()
    subprocess.run(
        [*command, "--model", "ctn-r2", "--palette", "R2", *words], check=True, capture_output=True
    )
    return time.monotonic() - started
