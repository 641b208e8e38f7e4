"""The log of a training run: losses and metrics by step."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm


class RunLog:
    """Losses and metrics as CSV and, where the package is there, for TensorBoard.

    Args:
        folder: Where ``losses.csv``, ``metrics.csv``, ``log.txt`` and the event files go.
        step: Rows after this step, left from an interrupted run, are dropped.
        pending: What the interrupted run had yet to write, as it had it in ``pending``.

    Attributes:
        pending: Sum and number of the losses since the last row, by name.
    """

    def __init__(
        self, folder: Path, step: int, pending: Mapping[str, list[float]] | None = None
    ) -> None:
        self.folder = folder
        for name in ("losses.csv", "metrics.csv"):
            _drop_rows_after(folder / name, step)
        self.pending = {name: list(entry) for name, entry in (pending or {}).items()}
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board: Any = SummaryWriter(str(folder), purge_step=step + 1)
        except ImportError:
            self._board = None

    def add(self, losses: Mapping[str, float]) -> None:
        """Adds the losses of a step to the running means."""
        for name, value in losses.items():
            entry = self.pending.setdefault(name, [0.0, 0])
            entry[0] += value
            entry[1] += 1

    def write_losses(
        self, step: int, optimizer: torch.optim.Optimizer, rate: float
    ) -> dict[str, float]:
        """Writes the means since the last time and returns them."""
        means = {name: total / count for name, (total, count) in sorted(self.pending.items())}
        self.pending = {}
        rate_now = optimizer.param_groups[-1]["lr"]
        self._write("losses.csv", step, means | {"learning_rate": rate_now, "images_per_s": rate})
        return means

    def write_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the figures of a validation."""
        self._write("metrics.csv", step, metrics)

    def note(self, step: int, text: str) -> None:
        """Writes a line or more to ``log.txt``, and to the screen above the progress bar."""
        with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"step {step}: {text}\n")
        tqdm.write(f"step {step}: {text}", file=sys.stderr)

    def _write(self, name: str, step: int, values: Mapping[str, float]) -> None:
        with (self.folder / name).open("a", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([step, key, f"{value:.6g}"] for key, value in values.items())
        if self._board is not None:
            for key, value in values.items():
                self._board.add_scalar(f"{name.removesuffix('.csv')}/{key}", value, step)

    def close(self) -> None:
        """Flushes and closes the event files."""
        if self._board is not None:
            self._board.close()


def _drop_rows_after(path: Path, step: int) -> None:
    if path.exists():
        rows = path.read_text().splitlines(keepends=True)
        path.write_text("".join(row for row in rows if int(row.split(",")[0]) <= step))
