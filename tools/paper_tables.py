"""Write the paper's Tables 1 to 4 as Markdown, with the zoo's figures beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence

from ctnet.evaluation.evaluate import EvalResult
from tools.paper_comparison import Measured, figures_of, signed
from tools.paper_figures import MEASURES, PAPER_TABLES, PaperTable, Row
from tools.result_tables import label_mark

MISSING = "–"


def paper_table(table: PaperTable, results: Sequence[EvalResult]) -> str:
    """Builds one of the paper's tables as Markdown.

    Each cell has our figure and the paper's in brackets. A dash marks figures that are not
    measured, and Delta_m where a figure of the row or its baseline is missing or the two are of
    different photographs. An asterisk marks figures on labels that are not all true.
    """
    found = Measured(results)
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
        result, figures = found.result(row), figures_of(found.result(row))
        cells = list(row.names)
        for task, paper in zip(table.tasks, row.paper, strict=True):
            ours = MISSING
            if result is not None and task in figures:
                ours = f"{figures[task]:.1f}{label_mark(result, task)}"
            cells.append(f"{ours} ({paper:.2f})")
        if row.paper_delta is not None:
            cells.append(f"{_delta_cell(found, table, row)} ({signed(row.paper_delta, 2)})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _delta_cell(found: Measured, table: PaperTable, row: Row) -> str:
    delta, result = found.delta(table, row), found.result(row)
    if delta is None or result is None:
        return MISSING
    if row.model == row.baseline:
        return signed(delta)
    marks = {label_mark(result, task) for task in table.tasks}
    return signed(delta) + max(marks)


def labels_table(results: Sequence[EvalResult]) -> str:
    """Builds a Markdown table of the photographs and labels that each rule is evaluated on.

    A rule whose results are of different photographs has several rows.
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
