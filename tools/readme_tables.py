"""Tables of results as Markdown, written from ``results/*.json`` alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ctnet.evaluation.evaluate import HEADLINE, EvalResult
from ctnet.evaluation.palettes import PALETTE
from ctnet.evaluation.results import read_results
from ctnet.zoo.manifest import ModelInfo, list_models, model_info

READ_TWICE = ("ctn-r1", "ctn-r2")
"""Models of the README whose figures by eq. 5 stand beside those by label tables."""


BY_ANCHORS = "eq5"
"""Folder, within that of results, of models measured without their label tables."""


COLUMNS = {
    "seg": "SemSeg mIoU ↑",
    "parts": "Parts mIoU ↑",
    "normals": "Normals mean ° ↓",
    "saliency": "Saliency mIoU ↑",
    "edges": "Edges odsF ↑",
}


def metrics_table(results: Sequence[EvalResult], by_anchors: Sequence[EvalResult] = ()) -> str:
    """Builds a Markdown table: a row for each model and rule, a column for each task of the paper.

    Palette networks, which do none of them, are left out. Figures on labels that are not all true
    ones carry an asterisk.

    Args:
        results: What was measured.
        by_anchors: The same for some of the models, with classes read by eq. 5.
    """
    again = _by_row(by_anchors)
    lines = [
        "| Model | Rule | " + " | ".join(COLUMNS.values()) + " |",
        "|---|---|" + "---|" * len(COLUMNS),
    ]
    for result in results:
        if not COLUMNS.keys() & result.scores.keys():
            continue
        cells = [_cell(result, task) for task in COLUMNS]
        lines.append(f"| `{result.model}` | {result.rule} | " + " | ".join(cells) + " |")
        other = again.get((result.model, result.rule))
        if other is not None:
            cells = [_cell(other, task) for task in COLUMNS]
            lines.append(f"| *read by eq. 5* | {result.rule} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def readings_table(results: Sequence[EvalResult], by_anchors: Sequence[EvalResult]) -> str:
    """Builds a Markdown table of mIoU by label table and by eq. 5, with bootstrap intervals."""
    lines = ["| Model | Rule | Task | Label table | Eq. 5 |", "|---|---|---|---|---|"]
    found = _by_row(results)
    for other in by_anchors:
        result = found.get((other.model, other.rule))
        if result is None:
            continue
        for task in other.read_by:
            cells = [
                _interval(x, task) if x.read_by.get(task) == way else "–"
                for x, way in ((result, "table"), (other, "eq. 5"))
            ]
            lines.append(f"| `{result.model}` | {result.rule} | {task} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _by_row(results: Sequence[EvalResult]) -> dict[tuple[str, str], EvalResult]:
    return {(result.model, result.rule): result for result in results}


def _interval(result: EvalResult, task: str) -> str:
    low, high = result.scores[task]["interval"]
    return f"{result.headline(task):.1f} ({low:.1f} to {high:.1f})"


def _cell(result: EvalResult, task: str) -> str:
    if task not in result.scores:
        return "–"
    digits = 3 if HEADLINE[task] == "ods_f" else 1
    return f"{result.headline(task):.{digits}f}{label_mark(result, task)}"


def palette_table(results: Sequence[EvalResult]) -> str:
    """Builds a Markdown table of palette networks: mIoU over the tasks (section 6.2)."""
    lines = ["| Model | Rule | Palette mIoU ↑ |", "|---|---|---|"]
    for result in results:
        if PALETTE in result.scores:
            figure = f"{result.headline(PALETTE):.1f}{label_mark(result, PALETTE)}"
            lines.append(f"| `{result.model}` | {result.rule} | {figure} |")
    return "\n".join(lines)


def label_mark(result: EvalResult, task: str) -> str:
    """Returns the asterisk of a figure whose labels are not all true ones, or nothing."""
    return "" if set(result.labels[task]) == {"true"} else "\\*"


def training_table(models: Sequence[ModelInfo]) -> str:
    """Builds a Markdown table of how models were trained: a row for each."""
    lines = [
        "| Model | Parameters | Rule | Start | Steps × batch | Seed | Hours | Hardware |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for info in models:
        run = info.training
        lines.append(
            f"| `{info.name}` | {info.parameters / 1e6:.2f} M | {info.rule} | {run['start']} | "
            f"{run['steps']} | {run['seed']} | "
            f"{run['seconds'] / 3600:.1f} | {run['hardware']} |"
        )
    return "\n".join(lines)


def update_readme(readme: str | Path, results: str | Path) -> None:
    """Replaces the tables between the marks in a Markdown file; only models of the zoo are shown.

    Raises:
        ValueError: If the file has no marks.
    """
    path = Path(readme)
    names = list_models()
    text = path.read_text("utf-8")
    text = replace_marked(text, "training", training_table([model_info(name) for name in names]))
    measured = [result for result in read_results(results) if result.model in names]
    by_anchors = [result for result in read_by_anchors(results) if result.model in READ_TWICE]
    text = replace_marked(text, "metrics", metrics_table(measured, by_anchors))
    text = replace_marked(text, "palettes", palette_table(measured))
    path.write_text(text, "utf-8")


def update_labels_page(page: str | Path, results: str | Path) -> None:
    """Replaces the table of readings between the marks in a Markdown file.

    Raises:
        ValueError: If the file has no marks.
    """
    path = Path(page)
    table = readings_table(read_results(results), read_by_anchors(results))
    path.write_text(replace_marked(path.read_text("utf-8"), "readings", table), "utf-8")


def read_alike(results: str | Path) -> list[EvalResult]:
    """Reads all results, those of models with label tables as they are read by eq. 5."""
    again = _by_row(read_by_anchors(results))
    return [
        again[key].on_top_of(result) if key in again else result
        for key, result in _by_row(read_results(results)).items()
    ]


def read_by_anchors(results: str | Path) -> list[EvalResult]:
    """Reads the results of the folder ``eq5``: models measured without their label tables."""
    folder = Path(results) / BY_ANCHORS
    return read_results(folder) if folder.is_dir() else []


def replace_marked(text: str, name: str, content: str) -> str:
    """Replaces what stands between the marks of a name.

    Raises:
        ValueError: If the text lacks a mark.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"no lines {begin} and {end} to write the table between.")
    return f"{head}{begin}\n{content}\n{end}{tail}"
