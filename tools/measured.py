"""Read ``results/``: figures by label tables, and the same models read by eq. 5."""

from __future__ import annotations

from pathlib import Path

from ctnet.evaluation.evaluate import EvalResult
from ctnet.evaluation.results import read_results

BY_ANCHORS = "eq5"
"""Subfolder with results of models evaluated without their label tables."""


def read_by_anchors(results: str | Path) -> list[EvalResult]:
    """Reads the results of the subfolder ``eq5``, of models evaluated without label tables."""
    folder = Path(results) / BY_ANCHORS
    return read_results(folder) if folder.is_dir() else []
