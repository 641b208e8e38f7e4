"""Write results of ``ctnet eval`` and facts of the manifest as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from ctnet.evaluation.evaluate import HEADLINE, EvalResult
from ctnet.evaluation.palettes import PALETTE
from ctnet.zoo.manifest import ModelInfo

COLUMNS = {
    "seg": "SemSeg mIoU ↑",
    "parts": "Parts mIoU ↑",
    "normals": "Normals mean ° ↓",
    "saliency": "Saliency mIoU ↑",
    "edges": "Edges odsF ↑",
}


def metrics_table(results: Sequence[EvalResult], by_anchors: Sequence[EvalResult] = ()) -> str:
    """Builds a Markdown table with a row per model and rule and a column per task of the paper.

    Palette networks are left out. An asterisk marks figures on labels that are not all true.

    Args:
        results: Results of ``ctnet eval``.
        by_anchors: Results of some of the models with classes read by eq. 5.
    """
    again = by_row(by_anchors)
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


def overview_table(models: Sequence[ModelInfo], results: Sequence[EvalResult]) -> str:
    """Builds a Markdown table with a row per model, tested under S or else the rule it learned.

    Args:
        models: The models; each links to the section of its name.
        results: Results of ``ctnet eval``.
    """
    found = by_row(results)
    heads = ["Model", "Trained on", "Tested on", "Parameters", "Size", *COLUMNS.values()]
    lines = [f"| {' | '.join([*heads, 'Palette mIoU ↑'])} |", "|---" * (len(heads) + 1) + "|"]
    for info in models:
        result = found.get((info.name, "S")) or found.get((info.name, info.rule))
        size = sum(file.size for file in info.files.values()) / 1e6
        cells = [
            f"[`{info.name}`](#{info.name})",
            info.rule,
            "–" if result is None else result.rule,
            f"{info.parameters / 1e6:.1f} M",
            f"{size:.0f} MB",
            *("–" if result is None else _cell(result, task) for task in (*COLUMNS, PALETTE)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def readings_table(results: Sequence[EvalResult], by_anchors: Sequence[EvalResult]) -> str:
    """Builds a Markdown table of mIoU by label table and by eq. 5, with bootstrap intervals."""
    lines = ["| Model | Rule | Task | Label table | Eq. 5 |", "|---|---|---|---|---|"]
    found = by_row(results)
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


def palette_table(results: Sequence[EvalResult]) -> str:
    """Builds a Markdown table of palette networks: mIoU over the tasks (section 6.2)."""
    lines = ["| Model | Rule | Palette mIoU ↑ |", "|---|---|---|"]
    for result in results:
        if PALETTE in result.scores:
            figure = f"{result.headline(PALETTE):.1f}{label_mark(result, PALETTE)}"
            lines.append(f"| `{result.model}` | {result.rule} | {figure} |")
    return "\n".join(lines)


def training_table(models: Sequence[ModelInfo]) -> str:
    """Builds a Markdown table of how each model was trained."""
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


def label_mark(result: EvalResult, task: str) -> str:
    """Returns an asterisk if a figure's labels are not all true, else an empty string."""
    return "" if set(result.labels[task]) == {"true"} else "\\*"


def by_row(results: Sequence[EvalResult]) -> dict[tuple[str, str], EvalResult]:
    """Returns the results by model and rule."""
    return {(result.model, result.rule): result for result in results}


def _interval(result: EvalResult, task: str) -> str:
    low, high = result.scores[task]["interval"]
    return f"{result.headline(task):.1f} ({low:.1f} to {high:.1f})"


def _cell(result: EvalResult, task: str) -> str:
    if task not in result.scores:
        return "–"
    digits = 3 if HEADLINE.get(task) == "ods_f" else 1
    return f"{result.headline(task):.{digits}f}{label_mark(result, task)}"
