"""Write the generated tables into the README and the pages of ``docs/``, between their marks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ctnet.evaluation.results import read_results
from ctnet.zoo.manifest import list_models, model_info
from tools.complexity import COMPLEXITY_FILE, complexity_table, read_complexity
from tools.measured import read_by_anchors
from tools.paper_comparison import reading
from tools.paper_figures import PAPER_TABLES
from tools.paper_tables import labels_table, paper_table
from tools.result_tables import metrics_table, palette_table, readings_table, training_table

STUDY = "study"
"""Folder of results with those of networks that trained alike."""

READ_TWICE = ("ctn-r1", "ctn-r2")
"""Models whose figures by eq. 5 the README shows below those by label tables."""


def update_readme(readme: str | Path, results: str | Path) -> None:
    """Rewrites the tables of figures in the README.

    Raises:
        ValueError: If the file lacks a mark.
    """
    path = Path(readme)
    names = list_models()
    text = path.read_text("utf-8")
    measured = [result for result in read_results(results) if result.model in names]
    by_anchors = [result for result in read_by_anchors(results) if result.model in READ_TWICE]
    text = replace_marked(text, "metrics", metrics_table(measured, by_anchors))
    text = replace_marked(text, "palettes", palette_table(measured))
    path.write_text(text, "utf-8")


def update_labels_page(page: str | Path, results: str | Path) -> None:
    """Rewrites the table of label tables against eq. 5 in ``docs/labels.md``.

    Raises:
        ValueError: If the file lacks a mark.
    """
    path = Path(page)
    table = readings_table(read_results(results), read_by_anchors(results))
    rewrite_marked(path, "readings", table)


def update_tables_page(page: str | Path, results: str | Path) -> None:
    """Rewrites the tables in ``docs/tables.md``.

    Args:
        page: Markdown file with marks ``table-1`` to ``table-4``, ``reading``, ``study``,
            ``labels``, ``trained`` and ``complexity``.
        results: Folder of the results of ``ctnet eval`` and ``python -m benchmarks complexity``;
            its folder ``study`` has those of the recipes ``study/NAME``.

    Raises:
        FileNotFoundError: If the page or all results of ``ctnet eval`` are missing.
        ValueError: If the page lacks a mark.
    """
    path, found = Path(page), read_results(results)
    blocks = {f"table-{table.number}": paper_table(table, found) for table in PAPER_TABLES}
    blocks["reading"] = reading(found)
    blocks["study"] = _study(Path(results) / STUDY)
    blocks["labels"] = labels_table(found)
    blocks["trained"] = training_table([model_info(name) for name in list_models()])
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


def _study(folder: Path) -> str:
    """Writes the tables of networks that trained alike, as far as they are measured."""
    if not folder.is_dir():
        return "Not run yet."
    found = read_results(folder)
    measured = {(result.model, result.rule) for result in found}
    tables = [
        paper_table(replace(table, rows=rows), found)
        for table in PAPER_TABLES
        if (rows := tuple(row for row in table.rows if (row.model, row.rule) in measured))
    ]
    return "\n\n".join([*tables, reading(found)])


def rewrite_marked(path: Path, name: str, content: str) -> None:
    """Replaces the text between the marks of a file; see :func:`replace_marked`."""
    path.write_text(replace_marked(path.read_text("utf-8"), name, content), "utf-8")


def replace_marked(text: str, name: str, content: str) -> str:
    """Replaces the text between the marks ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.

    Raises:
        ValueError: If the text lacks a mark.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"missing the marks {begin} and {end}, which enclose the table.")
    return f"{head}{begin}\n{content}\n{end}{tail}"
