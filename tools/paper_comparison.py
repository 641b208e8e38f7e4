"""Compare the zoo with the paper's tables: gains, Delta_m, and whether orderings agree.

The data sets differ, so the pattern compares, not the numbers: :func:`reading` says which pairs of
rows are ordered as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ctnet.evaluation.evaluate import EvalResult
from tools.paper_figures import MEASURES, PAPER_TABLES, PaperTable, Row

TIE = 0.5
"""Differences below this, in % (of a figure) or points (of Delta_m), count as ties."""

Figures = Mapping[str, float]
"""Figures by task, in the paper's units."""


def gains(figures: Figures, base: Figures, tasks: Sequence[str]) -> tuple[float, ...]:
    """Computes the gain of each task over a baseline, (−1)^l (M_m − M_b)/M_b, in %.

    Raises:
        ZeroDivisionError: If a figure of the baseline is zero.
    """
    signs = [-1.0 if MEASURES[task].lower else 1.0 for task in tasks]
    return tuple(
        100 * sign * (figures[task] - base[task]) / base[task]
        for sign, task in zip(signs, tasks, strict=True)
    )


def delta_m(figures: Figures, base: Figures, tasks: Sequence[str]) -> float | None:
    """Computes Delta_m, the mean of :func:`gains`, in %.

    Returns:
        The mean, None if a figure is missing.
    """
    if not tasks or any(task not in figures or not base.get(task) for task in tasks):
        return None
    found = gains(figures, base, tasks)
    return sum(found) / len(found)


def figures_of(result: EvalResult | None) -> dict[str, float]:
    """Returns the measured figures in the paper's units, without those that are NaN."""
    if result is None:
        return {}
    found = {}
    for task, measure in MEASURES.items():
        try:
            found[task] = measure.scale * result.headline(task)
        except (KeyError, TypeError):
            continue
    return {task: value for task, value in found.items() if math.isfinite(value)}


class Measured:
    """Results by model and rule."""

    def __init__(self, results: Sequence[EvalResult]) -> None:
        self._results = {(result.model, result.rule): result for result in results}

    def result(self, row: Row) -> EvalResult | None:
        """Returns the result of a row, None if it is not measured."""
        return self._results.get((row.model, row.rule))

    def baseline(self, row: Row) -> EvalResult | None:
        """Returns the result of a row's baseline, None if it is not measured."""
        return self._results.get((row.baseline or "", row.rule))

    def delta(self, table: PaperTable, row: Row) -> float | None:
        """Returns Delta_m of a row, None if it cannot be computed."""
        result, base = self.result(row), self.baseline(row)
        if result is None or base is None or not _same_data(result, base):
            return None
        return delta_m(figures_of(result), figures_of(base), table.tasks)


def _same_data(a: EvalResult, b: EvalResult) -> bool:
    """Returns whether two results are of the same photographs, by what the results record."""

    def key(result: EvalResult) -> tuple[object, ...]:
        sources = [tuple(result.sources.get(task, ())) for task in MEASURES]
        return result.data, result.split, sources

    def counts(result: EvalResult) -> list[object]:
        return [result.scores.get(task, {}).get("images") for task in MEASURES]

    return key(a) == key(b) and (a.rule != b.rule or counts(a) == counts(b))


@dataclass(frozen=True)
class Comparison:
    """The difference between two rows, here and in the paper; positive is better.

    Attributes:
        name: A column's head, or ``Delta_m``.
        ours: Our difference: % of the second row's figure, points of Delta_m.
        paper: The paper's difference.
    """

    name: str
    ours: float
    paper: float

    @property
    def verdict(self) -> str:
        """``same`` or ``other`` sign, or ``tie`` if either difference is below ``TIE``."""
        if min(abs(self.ours), abs(self.paper)) < TIE:
            return "tie"
        return "same" if (self.ours > 0) == (self.paper > 0) else "other"


@dataclass(frozen=True)
class Agreement:
    """Two rows of a table compared, here and in the paper.

    Attributes:
        table: Number of the table.
        first: Title of the first row.
        second: Title of the second row.
        delta: Difference of Delta_m, None if a baseline is missing.
        tasks: Differences by task.
    """

    table: int
    first: str
    second: str
    delta: Comparison | None
    tasks: tuple[Comparison, ...]


def agreements(results: Sequence[EvalResult]) -> list[Agreement]:
    """Compares the pairs of rows in Tables 1 to 4 where both are measured."""
    found = Measured(results)
    compared = []
    for table in PAPER_TABLES:
        for pair in table.pairs:
            agreement = _agreement(found, table, *(table.rows[number] for number in pair))
            if agreement is not None:
                compared.append(agreement)
    return compared


def _agreement(found: Measured, table: PaperTable, first: Row, second: Row) -> Agreement | None:
    a, b = found.result(first), found.result(second)
    if a is None or b is None or not _same_data(a, b):
        return None
    ours = figures_of(a), figures_of(b)
    tasks = [task for task in table.tasks if task in ours[0] and ours[1].get(task)]
    if not tasks:
        return None
    papers = [dict(zip(table.tasks, row.paper, strict=True)) for row in (first, second)]
    compared = zip(tasks, gains(*ours, tasks), gains(papers[0], papers[1], tasks), strict=True)
    deltas = found.delta(table, first), found.delta(table, second)
    delta = None
    if None not in (*deltas, first.paper_delta, second.paper_delta):
        paper = (first.paper_delta or 0.0) - (second.paper_delta or 0.0)
        delta = Comparison("Delta_m", (deltas[0] or 0.0) - (deltas[1] or 0.0), paper)
    return Agreement(
        table.number,
        first.title,
        second.title,
        delta,
        tuple(Comparison(MEASURES[task].head.split()[0], x, y) for task, x, y in compared),
    )


def reading(results: Sequence[EvalResult]) -> str:
    """Says in Markdown which pairs of rows are ordered as in the paper."""
    compared = agreements(results)
    if not compared:
        return "No two rows of a table are measured yet."
    lines = [
        f"Of {len(compared)} pairs of rows, Delta_m "
        f"{_tally('has', [x.delta for x in compared if x.delta])}; single tasks "
        f"{_tally('have', [task for x in compared for task in x.tasks])}.",
        "",
        "| Table | First row | Second row | Delta_m | As in the paper | The other way | Tie |",
        "|---|---|---|---|---|---|---|",
    ]
    for pair in compared:
        tasks = [
            ", ".join(task.name for task in pair.tasks if task.verdict == verdict) or "–"
            for verdict in ("same", "other", "tie")
        ]
        delta = "–"
        if pair.delta:
            delta = f"{signed(pair.delta.ours)} ({signed(pair.delta.paper)})"
        cells = (str(pair.table), pair.first, pair.second, delta, *tasks)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _tally(verb: str, compared: Sequence[Comparison]) -> str:
    if not compared:
        return "is not comparable yet"
    count = {v: sum(x.verdict == v for x in compared) for v in ("same", "other", "tie")}
    return (
        f"{verb} the paper's sign in {count['same']} of {len(compared)} cases, the other in "
        f"{count['other']}, a tie in {count['tie']}"
    )


def signed(value: float, digits: int = 1) -> str:
    """Formats a number with its sign; zero has none."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return f"{'−' if value < 0 else '+'}{text}"
