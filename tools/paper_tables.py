"""The paper's Tables 1 to 4 with our figures beside the paper's own, as Markdown.

The data sets differ, so the pattern compares, not the numbers: :func:`reading` says where two rows
of a table stand to each other as the paper's rows do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctnet.evaluation.evaluate import EvalResult
from ctnet.zoo.manifest import list_models, model_info
from tools.complexity import COMPLEXITY_FILE, complexity_table, read_complexity
from tools.paper_figures import MEASURES, PAPER_TABLES, PaperTable, Row
from tools.readme_tables import label_mark, read_alike, replace_marked, training_table

TIE = 0.5
"""Differences below this, in % (of a figure) or points (of Delta_m), count as ties."""

MISSING = "–"

Figures = Mapping[str, float]
"""Figures by task, in the paper's units."""


def gains(figures: Figures, base: Figures, tasks: Sequence[str]) -> tuple[float, ...]:
    """Computes how much better than a baseline each task is, (−1)^l (M_m − M_b)/M_b, in %.

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
        The mean, None where a figure of either is missing.
    """
    if not tasks or any(task not in figures or not base.get(task) for task in tasks):
        return None
    found = gains(figures, base, tasks)
    return sum(found) / len(found)


def _figures(result: EvalResult | None) -> dict[str, float]:
    """Returns what was measured, in the paper's units; NaN is null in a file and left out."""
    if result is None:
        return {}
    found = {}
    for task, measure in MEASURES.items():
        try:
            found[task] = measure.scale * result.headline(task)
        except (KeyError, TypeError):
            continue
    return {task: value for task, value in found.items() if math.isfinite(value)}


class _Found:
    """Results by model and rule."""

    def __init__(self, results: Sequence[EvalResult]) -> None:
        self._results = {(result.model, result.rule): result for result in results}

    def result(self, row: Row) -> EvalResult | None:
        return self._results.get((row.model, row.rule))

    def baseline(self, row: Row) -> EvalResult | None:
        return self._results.get((row.baseline or "", row.rule))

    def delta(self, table: PaperTable, row: Row) -> float | None:
        result, base = self.result(row), self.baseline(row)
        if result is None or base is None or not _same_data(result, base):
            return None
        return delta_m(_figures(result), _figures(base), table.tasks)


def _same_data(a: EvalResult, b: EvalResult) -> bool:
    """Says whether two results are of the same photographs, as far as a result tells."""

    def key(result: EvalResult) -> tuple[object, ...]:
        sources = [tuple(result.sources.get(task, ())) for task in MEASURES]
        return result.data, result.split, sources

    def counts(result: EvalResult) -> list[object]:
        return [result.scores.get(task, {}).get("images") for task in MEASURES]

    return key(a) == key(b) and (a.rule != b.rule or counts(a) == counts(b))


def paper_table(table: PaperTable, results: Sequence[EvalResult]) -> str:
    """Builds one of the paper's tables as Markdown.

    Each cell holds our figure and, in brackets, the paper's. A dash stands for what is not
    measured, and for Delta_m where a figure of the row or of its baseline is missing or the two
    are of different photographs. An asterisk marks figures on labels that are not all true ones.
    """
    found = _Found(results)
    heads = [*table.heads, *(MEASURES[task].head for task in table.tasks)]
    if table.rows[0].paper_delta is not None:
        heads.append("Delta_m % ↑")
    lines = [
        f"**Table {table.number}, {table.title}: ours (the paper's, on PASCAL-MT)**",
        "",
        "| " + " | ".join(heads) + " |",
        "|---" * len(heads) + "|",
    ]
    for row in table.rows:
        result, figures = found.result(row), _figures(found.result(row))
        cells = list(row.names)
        for task, paper in zip(table.tasks, row.paper, strict=True):
            ours = MISSING
            if result is not None and task in figures:
                ours = f"{figures[task]:.1f}{label_mark(result, task)}"
            cells.append(f"{ours} ({paper:.2f})")
        if row.paper_delta is not None:
            cells.append(f"{_delta_cell(found, table, row)} ({_signed(row.paper_delta, 2)})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _delta_cell(found: _Found, table: PaperTable, row: Row) -> str:
    delta, result = found.delta(table, row), found.result(row)
    if delta is None or result is None:
        return MISSING
    if row.model == row.baseline:
        return _signed(delta)
    marks = {label_mark(result, task) for task in table.tasks}
    return _signed(delta) + max(marks)


def _signed(value: float, digits: int = 1) -> str:
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:
        return text
    return f"{'−' if value < 0 else '+'}{text}"


@dataclass(frozen=True)
class Comparison:
    """How far one row lies above another, here and in the paper; positive is better.

    Attributes:
        name: A column's head, or ``Delta_m``.
        ours: Our difference: % of the second row's figure, points of Delta_m.
        paper: The paper's.
    """

    name: str
    ours: float
    paper: float

    @property
    def verdict(self) -> str:
        """``same`` or ``other`` sign, ``tie`` where either difference is below ``TIE``."""
        if min(abs(self.ours), abs(self.paper)) < TIE:
            return "tie"
        return "same" if (self.ours > 0) == (self.paper > 0) else "other"

    def __str__(self) -> str:
        return f"{self.name} {_signed(self.ours)} ({_signed(self.paper)})"


@dataclass(frozen=True)
class Agreement:
    """Two rows of a table compared, here and in the paper.

    Attributes:
        table: Number of the table.
        first: Title of the first row.
        second: Title of the row that it is compared with.
        delta: Difference of the table's Delta_m, None where a baseline is missing.
        tasks: Differences by task.
    """

    table: int
    first: str
    second: str
    delta: Comparison | None
    tasks: tuple[Comparison, ...]


def agreements(results: Sequence[EvalResult]) -> list[Agreement]:
    """Compares those pairs of rows of Tables 1 to 4 of which both are measured."""
    found = _Found(results)
    compared = []
    for table in PAPER_TABLES:
        for pair in table.pairs:
            agreement = _agreement(found, table, *(table.rows[number] for number in pair))
            if agreement is not None:
                compared.append(agreement)
    return compared


def _agreement(found: _Found, table: PaperTable, first: Row, second: Row) -> Agreement | None:
    a, b = found.result(first), found.result(second)
    if a is None or b is None or not _same_data(a, b):
        return None
    ours = _figures(a), _figures(b)
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
    """Says as a Markdown list where our orderings have the paper's sign and where not."""
    compared = agreements(results)
    if not compared:
        return "No two rows of a table are measured yet."
    lines = [
        f"Pairs of rows of which both are measured: {len(compared)}. "
        f"Delta_m: {_tally([x.delta for x in compared if x.delta])}. "
        f"Single tasks: {_tally([task for x in compared for task in x.tasks])}.",
        "",
    ]
    for pair in compared:
        entries = [pair.delta] if pair.delta else []
        groups = []
        for verdict, title in (("same", "same sign"), ("other", "other sign"), ("tie", "tie")):
            named = [str(x) for x in (*entries, *pair.tasks) if x.verdict == verdict]
            if named:
                groups.append(f"{title}: {', '.join(named)}")
        lines.append(
            f"- Table {pair.table}, {pair.first} against {pair.second}: {'; '.join(groups)}."
        )
    return "\n".join(lines)


def _tally(compared: Sequence[Comparison]) -> str:
    if not compared:
        return "not comparable yet"
    count = {v: sum(x.verdict == v for x in compared) for v in ("same", "other", "tie")}
    return (
        f"the paper's sign in {count['same']} of {len(compared)} cases, the other in "
        f"{count['other']}, a tie in {count['tie']}"
    )


def labels_table(results: Sequence[EvalResult]) -> str:
    """Builds a Markdown table of the photographs and labels behind the figures of each rule.

    Taken from the systems of the paper's tables; a rule whose results are of different photographs
    has a row for each kind.
    """
    models = {row.model for table in PAPER_TABLES for row in table.rows}
    heads = ["Tested", *(measure.head.split()[0] for measure in MEASURES.values())]
    lines = {"| " + " | ".join(heads) + " |": None, "|---" * len(heads) + "|": None}
    for result in sorted(results, key=lambda result: result.rule):
        if result.model not in models:
            continue
        cells = [result.rule]
        for task in MEASURES:
            cell = MISSING
            if task in result.scores:
                sources, kinds = (" + ".join(x[task]) for x in (result.sources, result.labels))
                cell = f"{result.scores[task].get('images', '?')} {sources}, {kinds}"
            cells.append(cell)
        lines["| " + " | ".join(cells) + " |"] = None
    return "\n".join(lines)


def update_tables_page(page: str | Path, results: str | Path) -> None:
    """Writes what stands between the marks of the page of tables; the rest is left alone.

    Classes are read by eq. 5 in all rows, so that systems compare.

    Args:
        page: Markdown file with marks ``table-1`` to ``table-4``, ``reading``, ``labels``,
            ``trained`` and ``complexity``.
        results: Folder of the results of ``ctnet eval`` and ``python -m benchmarks complexity``.

    Raises:
        FileNotFoundError: If the page or all results of ``ctnet eval`` are missing.
        ValueError: If the page lacks a mark.
    """
    path, found = Path(page), read_alike(results)
    names = {row.model for table in PAPER_TABLES for row in table.rows}
    blocks = {f"table-{table.number}": paper_table(table, found) for table in PAPER_TABLES}
    blocks["reading"] = reading(found)
    blocks["labels"] = labels_table(found)
    blocks["trained"] = training_table([model_info(n) for n in list_models() if n in names])
    costs = Path(results) / COMPLEXITY_FILE
    blocks["complexity"] = (
        complexity_table(read_complexity(costs))
        if costs.exists()
        else "Not measured yet: `python -m benchmarks complexity`."
    )
    text = path.read_text("utf-8")
    for name, content in blocks.items():
        text = replace_marked(text, name, content)
    path.write_text(text, "utf-8")
