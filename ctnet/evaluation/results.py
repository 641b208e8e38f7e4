"""Reads the results of evaluations, as ``ctnet eval`` writes them."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from ctnet.evaluation.evaluate import RULE_NAMES, EvalResult


def read_results(folder: str | Path) -> list[EvalResult]:
    """Reads the results of all evaluations in a folder, by model and rule.

    Raises:
        FileNotFoundError: If there are none.
    """
    read = (read_result(path) for path in sorted(Path(folder).glob("*.json")))
    found = [result for result in read if result is not None]
    if not found:
        raise FileNotFoundError(f"no results of 'ctnet eval' in {folder}.")
    order = {rule: number for number, rule in enumerate(RULE_NAMES)}
    return sorted(found, key=lambda r: (r.model, order.get(r.rule, len(order)), r.rule))


def read_result(path: Path) -> EvalResult | None:
    """Reads the result of an evaluation, None where there is none or a file holds else."""
    if not path.is_file():
        return None
    values: Any = json.loads(path.read_text("utf-8"))
    if not isinstance(values, dict):
        return None
    known = {entry.name for entry in fields(EvalResult)}
    # Results of networks without label tables do not say how classes were read.
    return EvalResult(**values) if {*values} | {"read_by"} == known else None
